package capture

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/process"
)

// patience bounds every wait of these tests.
const patience = 60 * time.Second

// role in the environment makes the test binary play a program.
const role = "CAPTURE_TEST_ROLE"

func TestMain(m *testing.M) {
	if name := os.Getenv(role); name != "" {
		programs[name](os.Args[1:])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// children are the test's workers.
func children(t testing.TB) *process.Children {
	c := process.New()
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		c.Serve(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-served
		for c.KillAdopted(syscall.SIGKILL) > 0 {
			runtime.Gosched()
		}
		c.Close()
	})
	return c
}

// worker is a captured program.
type worker struct {
	*process.Process
	*Listener

	input  *os.File
	output *bufio.Reader
	served chan struct{} // closed when Serve has returned
	exited chan process.Exit

	mu    sync.Mutex
	calls []Call // that the handler has got
}

// program is a Spec of the test binary in a role.
func program(t testing.TB, name string, args ...string) process.Spec {
	t.Helper()
	self, err := os.Open("/proc/self/exe") // others can't enter the directory of a test binary
	check(t, err)
	t.Cleanup(func() { self.Close() })
	return process.Spec{
		Path: "/proc/self/exe", File: self, Args: append([]string{name}, args...), Umask: -1,
		Env: []string{role + "=" + name, "GORACE=atexit_sleep_ms=0", "PATH=/usr/bin:/bin"},
	}
}

// start runs a captured program, whose calls handle answers.
func start(t testing.TB, c *process.Children, spec process.Spec, handle func(Call) Answer) *worker {
	t.Helper()
	stdin, input, err := os.Pipe()
	check(t, err)
	output, stdout, err := os.Pipe()
	check(t, err)
	check(t, output.SetReadDeadline(time.Now().Add(patience)))
	spec.Files = append([]int{int(stdin.Fd()), int(stdout.Fd()), 2}, spec.Files...)
	spec.Capture = true
	p, err := c.Start(spec)
	stdin.Close()
	stdout.Close()
	check(t, err)
	fd, why := p.Capture()
	if fd < 0 {
		t.Fatal(why)
	}
	w := &worker{Process: p, Listener: New(fd), input: input, output: bufio.NewReader(output), served: make(chan struct{}), exited: make(chan process.Exit, 1)}
	go func() {
		defer close(w.served)
		w.Serve(func(c Call) Answer {
			w.mu.Lock()
			w.calls = append(w.calls, c)
			w.mu.Unlock()
			return handle(c)
		})
	}()
	p.Watch(func(e process.Exit) { w.exited <- e }, func() {})
	t.Cleanup(func() {
		_ = p.SignalGroup(syscall.SIGKILL) // it may have ended
		receive(t, w.served, "Serve's end")
		input.Close()
		output.Close()
	})
	return w
}

func receive[T any](t testing.TB, from <-chan T, what string) (value T) {
	t.Helper()
	select {
	case value = <-from:
	case <-time.After(patience):
		t.Errorf("no news of %s", what)
	}
	return value
}

// line reads what the program prints next.
func (w *worker) line(t testing.TB) string {
	t.Helper()
	text, err := w.output.ReadString('\n')
	if err != nil {
		t.Fatalf("after %q: %v", text, err)
	}
	return strings.TrimSuffix(text, "\n")
}

// seen is what the handler has got so far.
func (w *worker) seen() []Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Call(nil), w.calls...)
}

// listener makes a socket of the test's at a port of its own.
func listener(t testing.TB, address string) (fd int, at netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	check(t, err)
	file, err := l.(*net.TCPListener).File()
	check(t, err)
	l.Close()
	t.Cleanup(func() { file.Close() })
	return int(file.Fd()), netip.MustParseAddrPort(l.Addr().String())
}

// give answers with copies of a socket, as the caller of Serve does.
func give(t testing.TB, fd int) func(Call) Answer {
	return func(c Call) Answer {
		if c.Listen {
			return Answer{Handled: true, Socket: -1}
		}
		socket, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
		}
		return Answer{Handled: true, Socket: socket}
	}
}

// programs are the roles; what they print is compared.
//
//nolint:gochecknoglobals // a fixed table
var programs = map[string]func(args []string){
	"one": one,
}

// one binds and listens, and says what came of it and where the socket is.
func one(args []string) {
	at := netip.MustParseAddrPort(args[0])
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	fmt.Println(err, unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}), unix.Listen(fd, 5))
	name, err := unix.Getsockname(fd)
	fmt.Println(name.(*unix.SockaddrInet4).Port, err)
}
