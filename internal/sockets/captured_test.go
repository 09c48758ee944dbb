package sockets

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/capture"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/test/ports"
)

// captured runs a helper whose bind(2) and listen(2) are answered from the set, as a
// worker's of slot 0 are. It returns what the helper has said when it has ended, or, if it
// waits for its stdin, what it says first.
func captured(t *testing.T, a *testApp, uid int, helper string, env ...string) (said string, end func()) {
	t.Helper()
	children := process.New()
	ctx, stop := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { children.Serve(ctx) })
	self, err := os.Open("/proc/self/exe")
	check(t, err)
	defer self.Close()
	stdin, input, err := os.Pipe()
	check(t, err)
	output, stdout, err := os.Pipe()
	check(t, err)
	spec := process.Spec{
		Path: "/proc/self/exe", File: self, Umask: -1, Capture: true,
		Env:   append(env, "SOCKETS_TEST_HELPER="+helper, "GORACE=atexit_sleep_ms=0"),
		Files: []int{int(stdin.Fd()), int(stdout.Fd()), int(stdout.Fd())},
	}
	if uid != os.Getuid() {
		spec.User = &process.Credential{UID: uint32(uid), GID: uint32(uid)}
	}
	p, err := children.Start(spec)
	check(t, err)
	stdin.Close()
	stdout.Close()
	fd, why := p.Capture()
	if fd < 0 {
		t.Fatal(why)
	}
	exited := make(chan struct{})
	p.Watch(func(process.Exit) { close(exited) }, func() {})
	var loop sync.Mutex
	serving.Go(func() {
		capture.New(fd).Serve(func(c capture.Call) capture.Answer {
			loop.Lock()
			defer loop.Unlock()
			return answer(t, a, c)
		})
	})
	lines := bufio.NewReader(output)
	said, err = lines.ReadString('\n')
	check(t, err)
	loop.Lock() // the race detector does not see that the helper has said it after its calls
	defer loop.Unlock()
	return said, func() {
		input.Close()
		if _, err := io.Copy(io.Discard, lines); err != nil {
			t.Error(err)
		}
		output.Close()
		<-exited
		stop()
		serving.Wait()
		for children.KillAdopted(syscall.SIGKILL) > 0 {
			runtime.Gosched()
		}
		children.Close() // two reapers would reap each other's children
	}
}

// answer is what the loop does with a call.
func answer(t *testing.T, a *testApp, c capture.Call) capture.Answer {
	p := Program{Network: c.Network, Address: c.Address, Path: c.Path, V6: c.V6, V6Only: c.V6Only, Nonblocking: c.Nonblocking, Socket: c.Socket}
	if _, ok := a.line.Find(0, c.Cookie); ok {
		return capture.Answer{Handled: true, Socket: -1}
	}
	listener, ok := a.line.Match(0, p)
	if !ok && c.Listen {
		if _, err := a.line.Learn(a.slots, p); err != nil {
			t.Error(err)
		}
		listener, ok = a.line.Match(0, p)
	}
	if !ok {
		return capture.Answer{}
	}
	fd, err := a.line.Take(0, listener, p, nil)
	if err != nil {
		t.Error(err)
		return capture.Answer{}
	}
	socket, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
	}
	return capture.Answer{Handled: true, Socket: socket}
}

// helpInner is a forkd below another one.
func helpInner() error {
	port, err := strconv.Atoi(os.Getenv("INNER_PORT"))
	if err != nil {
		return err
	}
	slots, err := strconv.Atoi(os.Getenv("INNER_SLOTS"))
	if err != nil {
		return err
	}
	s, err := openApp([]Listener{tcp("inner", os.Getenv("INNER_HOST"), port)}, slots)
	if err != nil {
		return err
	}
	defer s.Close()
	files, err := s.files(0)
	if err != nil {
		return err
	}
	at, err := localAddr(files[0])
	fmt.Println(at.end, err)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// Another forkd captures this one's sockets: it gives one for all slots.
func TestUnderAnother(t *testing.T) {
	sameFiles(t)
	a := open(t, 2, tcp("http", "", 0))
	port := a.port("http")
	inner := []string{"INNER_HOST=", sprint("INNER_PORT=%d", port)}
	said, end := captured(t, a, os.Getuid(), "inner", append(inner, "INNER_SLOTS=2")...)
	end()
	wantError(t, fmt.Errorf("%.*s", len(said)-1, said), sprint("cannot listen on :%d", port), "under another one", `set sockets = "pass"`)
	wantOnly(t, a, 0) // its slot's socket is unharmed
	said, end = captured(t, a, os.Getuid(), "inner", append(inner, "INNER_SLOTS=1")...)
	if want := sprint("[::]:%d <nil>\n", port); said != want {
		t.Errorf("said %q, want %q", said, want)
	}
	end()
}

// A program of another user binds what nobody has declared.
func TestLearnCaptured(t *testing.T) {
	needRoot(t)
	sameFiles(t)
	port := ports.Free(t, 1)
	a := open(t, 3)
	said, end := captured(t, a, nobody, "inner", "INNER_HOST=127.0.0.1", sprint("INNER_PORT=%d", port), "INNER_SLOTS=1")
	defer end()
	if want := netip.AddrPortFrom(ipv4Loopback, uint16(port)).String() + " <nil>\n"; said != want {
		t.Fatalf("said %q, want %q", said, want)
	}
	a.line.Settle()
	wantOnly(t, a, 0)
	// The programs of the other slots may not listen there: they get none.
	for only := 1; only < 3; only++ {
		check(t, a.steer(onlySlot(3, only)...))
		dial(t, joinPort("127.0.0.1", port), 10)
		if counts := accept(t, a, 10); counts[0] != 10 {
			t.Errorf("slot %d serves: %v", only, counts)
		}
	}
}
