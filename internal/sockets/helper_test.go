package sockets

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/ports"
)

var ipv4Loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1}) //nolint:gochecknoglobals // a constant, as it were

const waitTimeout = 60 * time.Second

// TestMain runs a helper instead of the tests where the environment names one:
// what changes a whole process (user, limits, namespaces) is tried in another.
func TestMain(m *testing.M) {
	name, isHelper := os.LookupEnv("SOCKETS_TEST_HELPER")
	if !isHelper {
		os.Exit(m.Run())
	}
	helper, known := map[string]func() error{
		"hold":         helpHold,
		"held":         helpHeld,
		"unprivileged": helpUnprivileged,
		"privileged":   helpPrivilegedPort,
		"limit":        helpLimit,
		"no-ipv6":      helpNoIPv6,
		"source":       helpSource,
		"freebind":     helpFreebind,
		"stuck":        helpStuck,
		"fallback":     helpFallback,
		"half-open":    helpHalfOpen,
		"unmarked":     helpUnmarked,
		"family":       helpFamilyOfAnother,
		"inner":        helpInner,
		"fastopen":     helpFastOpen,
		"full":         helpFull,
	}[name]
	if !known {
		fmt.Fprintf(os.Stderr, "unknown helper %q\n", name)
		os.Exit(2)
	}
	if err := helper(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// helperCommand is the test binary as a helper.
func helperCommand(t *testing.T, name string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, "SOCKETS_TEST_HELPER="+name,
		"GORACE=atexit_sleep_ms=0")...) // else a second each, under -race
	return cmd
}

// namespaces gives a helper a network of its own and, there, the user id.
func namespaces(uid int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: syscall.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: syscall.Getgid(), Size: 1}},
	}
}

// runHelper runs a helper that must succeed.
func runHelper(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("helper: %v\n%s", err, out)
	}
}

// holder is a running helper that listens on a port.
type holder struct {
	pid, port int
}

// startHolder starts one with the given environment; it ends with the test.
func startHolder(t *testing.T, env ...string) holder {
	t.Helper()
	h := holder{port: ports.Free(t, 1)}
	cmd := helperCommand(t, "hold", append(env, fmt.Sprint("HOLD_PORT=", h.port))...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	check(t, err)
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("holder: %v", err)
		}
	})
	_, err = bufio.NewReader(stdout).ReadString('\n')
	check(t, err)
	h.pid = cmd.Process.Pid
	return h
}

// helpHold listens, with SO_REUSEPORT on, until its stdin ends. With HOLD_LOCK
// it looks like a master.
func helpHold() error {
	if dir := os.Getenv("HOLD_LOCK"); dir != "" {
		lock, err := os.Create(dir + "/lock")
		if err != nil {
			return err
		}
		defer lock.Close()
		if err := os.WriteFile(dir+"/pid", fmt.Appendln(nil, os.Getpid()), 0o600); err != nil {
			return err
		}
	}
	port, err := strconv.Atoi(os.Getenv("HOLD_PORT"))
	if err != nil {
		return err
	}
	l := tcp("held", "127.0.0.1", port)
	if path := os.Getenv("HOLD_PATH"); path != "" {
		l = unixAt(path)
	}
	s, err := openApp([]Listener{l}, 1)
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("listening")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func tcp(name, host string, port int) Listener {
	return Listener{Name: name, Network: "tcp", Host: host, Port: port, Balance: BalanceHash, Backlog: 512, Nonblocking: true}
}

// testApp is a Set with one ListenerSet, most often.
type testApp struct {
	*Set
	line  *ListenerSet
	slots int
}

func openApp(ls []Listener, slots int) (*testApp, error) { return openPassed(nil, nil, ls, slots) }

func openPassed(passed []Passed, keeper Keeper, ls []Listener, slots int) (*testApp, error) {
	return openOwn(strangers, passed, keeper, ls, slots)
}

// strangers are the holders of ports, by default.
func strangers(Holder) bool { return false }

// workerAt knows one process as the app's own.
func workerAt(pid int) func(Holder) bool { return func(h Holder) bool { return h.PID == pid } }

func openOwn(own func(Holder) bool, passed []Passed, keeper Keeper, ls []Listener, slots int) (*testApp, error) {
	s, err := New("shop", own, passed, keeper)
	if err != nil {
		return nil, err
	}
	line, err := s.Open(ls, slots)
	if err != nil {
		s.Close()
		return nil, err
	}
	return &testApp{s, line, slots}, nil
}

// open has each TCP listener without a port take one that nobody else has in any family,
// not even in TIME_WAIT: whoever is to bind it too can.
func open(t *testing.T, slots int, ls ...Listener) *testApp {
	t.Helper()
	for i := range ls {
		if ls[i].Network != "unix" && ls[i].Port == 0 {
			ls[i].Port = ports.Free(t, 1)
		}
	}
	s, err := openApp(ls, slots)
	check(t, err)
	t.Cleanup(s.Close)
	return s
}

func (a *testApp) files(slot int) ([]int, error) { return a.line.Files(slot) }

func (a *testApp) listeners() []Listener { return a.line.Listeners(0) }

func (a *testApp) Restore(slot int) (undone string, err error) {
	restored, err := a.Set.Restore(slot)
	for _, r := range restored {
		undone = r.Why
	}
	return undone, err
}

func (a *testApp) RestoreAll() ([]Restored, error) { return a.Set.Restore(AllSlots) }

func (a *testApp) port(name string) int {
	for _, l := range a.listeners() {
		if l.Name == name {
			return l.Port
		}
	}
	return 0
}

// steer has the slots served by the ListenerSet, or not.
func (a *testApp) steer(accept ...bool) error {
	serving := make([]*ListenerSet, len(accept))
	for slot, accepts := range accept {
		if accepts {
			serving[slot] = a.line
		}
	}
	return a.Steer(serving)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError fails unless err says all of the texts.
func wantError(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q has more than one line", err)
	}
}

// sameFiles fails the test if it ends with other descriptors than it began.
// Call it first.
func sameFiles(t *testing.T) {
	t.Helper()
	reader, writer, err := os.Pipe() // the runtime's own descriptors come with the first
	check(t, err)
	reader.Close()
	writer.Close()
	before := openFiles()
	t.Cleanup(func() {
		wantOpen(t, before)
	})
}

// wantOpen waits until no more descriptors are open: unix sockets are closed on a
// goroutine, also those of the test before.
func wantOpen(t *testing.T, want int) {
	t.Helper()
	for deadline := time.Now().Add(waitTimeout); ; time.Sleep(time.Millisecond) {
		switch open := openFiles(); {
		case open <= want:
			return
		case time.Now().After(deadline):
			t.Errorf("%d descriptors are open, want at most %d", open, want)
			return
		}
	}
}

// dial opens n connections and keeps them until the test ends.
func dial(t *testing.T, address string, n int) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	for i := range conns {
		conn, err := net.DialTimeout("tcp", address, waitTimeout)
		check(t, err)
		t.Cleanup(func() { conn.Close() })
		conns[i] = conn
	}
	return conns
}

// accept takes n connections from the sockets of all open slots and says how
// many each slot had. It closes them.
func accept(t *testing.T, s *testApp, n int) []int {
	t.Helper()
	counts, err := acceptFrom(s, n)
	check(t, err)
	return counts
}

func acceptFrom(s *testApp, n int) ([]int, error) {
	counts := make([]int, s.slots)
	var fds []unix.PollFd
	var slots []int
	for _, p := range s.bound {
		for slot, m := range p.all() {
			fds, slots = append(fds, unix.PollFd{Fd: int32(m.fd), Events: unix.POLLIN}), append(slots, slot)
		}
	}
	for total := 0; total < n; {
		ready, err := unix.Poll(fds, int(waitTimeout.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || ready == 0 {
			return nil, fmt.Errorf("%d of %d connections arrived, %v by slot: %v", total, n, counts, err)
		}
		for i := range fds {
			if fds[i].Revents&unix.POLLIN == 0 {
				continue
			}
			fd, _, err := unix.Accept4(int(fds[i].Fd), unix.SOCK_CLOEXEC)
			if err != nil {
				return nil, fmt.Errorf("slot %d: %w", slots[i], err)
			}
			unix.Close(fd)
			counts[slots[i]]++
			total++
		}
	}
	return counts, nil
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// becomeNobody gives up root, where the tests have it.
func becomeNobody() error {
	if os.Getuid() != 0 {
		return nil
	}
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setresgid(65534, 65534, 65534); err != nil {
		return err
	}
	return syscall.Setresuid(65534, 65534, 65534)
}
