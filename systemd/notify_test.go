package systemd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is the service manager's end of a notify socket.
type manager struct{ fd int }

// manage makes this test the service manager of what it starts from now on.
// Nothing may be left open at its end.
func manage(t *testing.T, address string) manager {
	t.Helper()
	before := descriptors(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(fd)
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors are open, there were %d", after, before)
		}
	})
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: address}); err != nil {
		t.Fatal(err)
	}
	patience := unix.NsecToTimeval(int64(time.Minute))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", address)
	return manager{fd}
}

// receive returns the next message and the descriptors that came with it.
func (m manager) receive(t *testing.T) (state string, fds []int) {
	t.Helper()
	data, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*8))
	n, oobn, flags, _, err := unix.Recvmsg(m.fd, data, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		t.Fatalf("no whole message: %v, flags %#x", err, flags)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range messages {
		if got, err := unix.ParseUnixRights(&message); err == nil {
			fds = append(fds, got...)
		}
	}
	return string(data[:n]), fds
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestNotifierSendsInOrder(t *testing.T) {
	for _, address := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@forkd-test-%d", os.Getpid())} {
		m := manage(t, address)
		n := NewNotifier()
		said := []string{"STATUS=starting", "READY=1\nSTATUS=2/2 workers ready", "STOPPING=1"}
		for _, state := range said {
			n.Tell(state)
		}
		n.Close()
		n.Tell("STATUS=too late")
		n.Close()
		for _, want := range said {
			if got, fds := m.receive(t); got != want || fds != nil {
				t.Errorf("%s: got %q and %v, want %q", address, got, fds, want)
			}
		}
	}
}

func TestStoreSendsTheDescriptorItself(t *testing.T) {
	m := manage(t, filepath.Join(t.TempDir(), "notify"))
	n := NewNotifier()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n.Tell("STATUS=before")
	n.Store("http.0", int(w.Fd()))
	n.Remove("http.1")
	w.Close() // the caller's own: the copy is on its way
	n.Close()

	if state, _ := m.receive(t); state != "STATUS=before" {
		t.Errorf("got %q first", state)
	}
	state, fds := m.receive(t)
	if state != "FDSTORE=1\nFDNAME=http.0\nFDPOLL=0" || len(fds) != 1 {
		t.Fatalf("got %q and descriptors %v", state, fds)
	}
	stored := os.NewFile(uintptr(fds[0]), "stored")
	if _, err := stored.WriteString("hello"); err != nil {
		t.Error(err)
	}
	stored.Close()
	// All of it, to the end: no copy of the pipe's end is left anywhere.
	if text, err := io.ReadAll(r); string(text) != "hello" || err != nil {
		t.Errorf("the stored descriptor is another one: %q, %v", text, err)
	}
	if state, fds := m.receive(t); state != "FDSTOREREMOVE=1\nFDNAME=http.1" || fds != nil {
		t.Errorf("got %q and %v", state, fds)
	}
}

func TestStoreRefusesWhatSystemdWould(t *testing.T) {
	m := manage(t, filepath.Join(t.TempDir(), "notify"))
	n := NewNotifier()
	for _, name := range []string{"", "a:b", "a\nREADY=1", "ä", strings.Repeat("x", 256)} {
		n.Store(name, 0)
		n.Remove(name)
	}
	n.Store("closed", -1)
	n.Store(strings.Repeat("x", 255), 0)
	n.Close()
	state, fds := m.receive(t)
	for _, fd := range fds {
		unix.Close(fd)
	}
	if want := "FDSTORE=1\nFDNAME=" + strings.Repeat("x", 255) + "\nFDPOLL=0"; state != want {
		t.Errorf("got %q", state)
	}
}

func TestNotifierWithoutManager(t *testing.T) {
	before := descriptors(t)
	t.Setenv("NOTIFY_SOCKET", "")
	n := NewNotifier()
	for range 10_000 {
		n.Tell("READY=1")
		n.Store("stdin", 0)
	}
	n.Close()
	t.Setenv("NOTIFY_SOCKET", "/nonexistent/notify")
	n = NewNotifier()
	n.Tell("READY=1")
	n.Store("stdin", 0)
	n.Close()
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, there were %d", after, before)
	}
}

// A service manager that does not read holds nobody up, is not told without
// bound, and hears the start of what it was told when it reads again.
func TestNotifierIsNotHeldUp(t *testing.T) {
	m := manage(t, filepath.Join(t.TempDir(), "notify"))
	n := NewNotifier()
	started := time.Now()
	for i := range 100_000 {
		n.Tell("STATUS=" + strconv.Itoa(i))
		n.Store("stdin", 0)
	}
	n.mu.Lock()
	waiting := len(n.waiting)
	n.mu.Unlock()
	if waiting > maxWaiting {
		t.Errorf("%d messages wait", waiting)
	}
	n.Close()
	if took := time.Since(started); took > time.Minute {
		t.Errorf("it took %v", took)
	}
	if state, _ := m.receive(t); state != "STATUS=0" {
		t.Errorf("got %q first", state)
	}
	for { // the descriptors that are under way would be leaks of this test's own
		data, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*8))
		_, oobn, _, _, err := unix.Recvmsg(m.fd, data, oob, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for _, message := range messages {
			fds, _ := unix.ParseUnixRights(&message)
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}
}

func TestWatchdog(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"30000000", self, 15 * time.Second},
		{"30000000", "", 15 * time.Second},
		{"30000000", "1", 0},
		{"30000000", "x", 0},
		{"", self, 0},
		{"0", self, 0},
		{"-5", self, 0},
		{"1e6", self, 0},
		{"9223372036854775807", self, 0},
		{"99999999999999999999", self, 0},
	} {
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		n := &Notifier{address: "@x"}
		if got := n.Watchdog(); got != c.want {
			t.Errorf("WATCHDOG_USEC=%s WATCHDOG_PID=%s: %v, want %v", c.usec, c.pid, got, c.want)
		}
	}
	t.Setenv("WATCHDOG_USEC", "30000000")
	if got := (&Notifier{}).Watchdog(); got != 0 {
		t.Errorf("nobody to tell, yet %v", got)
	}
}

func TestStates(t *testing.T) {
	var before unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &before); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(Reloading(), "\n")
	usec, err := strconv.ParseInt(strings.TrimPrefix(lines[len(lines)-1], "MONOTONIC_USEC="), 10, 64)
	if err != nil || !slices.Contains(lines, "RELOADING=1") || usec < before.Nano()/1000 || usec > before.Nano()/1000+60_000_000 {
		t.Errorf("%q, %v", lines, err)
	}
	if got := Extend(90 * time.Second); got != "EXTEND_TIMEOUT_USEC=90000000" {
		t.Error(got)
	}
	if got := Extend(-time.Second); got != "EXTEND_TIMEOUT_USEC=0" {
		t.Error(got)
	}
}
