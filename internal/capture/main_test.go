package capture

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
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

// children are the workers of a test, which must end with as many descriptors and
// goroutines as it began with.
func children(t testing.TB) *process.Children {
	c := process.New()
	ctx, stop := context.WithCancel(context.Background())
	go c.Serve(ctx)
	var descriptors, goroutines int
	t.Cleanup(func() {
		eventually(t, "as many goroutines as before", func() bool { return runtime.NumGoroutine() <= goroutines })
		eventually(t, "as many descriptors as before", func() bool { return used(t) <= descriptors }) // a worker's is closed when it is reaped
		stop()
		c.Close()
	})
	goroutines, descriptors = runtime.NumGoroutine(), used(t)
	return c
}

// used counts the open descriptors of this process.
func used(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(entries)
}

// eventually polls a condition.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Errorf("never: %s", what)
			return
		}
	}
}

// worker is a program, captured or not.
type worker struct {
	*process.Process

	listener *Listener // nil: not captured
	input    *os.File
	output   *bufio.Reader
	served   chan struct{} // closed when Serve has returned
	exited   chan process.Exit

	mu    sync.Mutex
	calls []Call // that the handler has got
}

// program is a Spec of the test binary in a role.
func program(t testing.TB, name string, args ...string) process.Spec {
	t.Helper()
	self, err := os.Open("/proc/self/exe") // others can't enter the directory of a test binary
	check(t, err)
	t.Cleanup(func() { self.Close() })
	spec := command("/proc/self/exe", args...)
	spec.File, spec.Env = self, append(spec.Env, role+"="+name, "GORACE=atexit_sleep_ms=0")
	return spec
}

func command(path string, args ...string) process.Spec {
	return process.Spec{Path: path, Args: append([]string{filepath.Base(path)}, args...), Umask: -1, Env: []string{"PATH=/usr/bin:/bin"}}
}

// compiled is a program of C.
func compiled(t testing.TB, source string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "program")
	out, err := exec.CommandContext(t.Context(), "gcc", "-O1", "-Wall", "-Werror", "-static", "-no-pie", "-pthread", "-o", path, filepath.Join("testdata", source)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// start runs a program, whose calls handle answers; nil: it is not captured.
func start(t testing.TB, c *process.Children, spec process.Spec, handle func(Call) Answer) *worker {
	t.Helper()
	w := prepare(t, c, spec, handle != nil)
	if handle != nil {
		go w.serve(handle)
	}
	return w
}

// prepare runs a program, whose calls wait for serve.
func prepare(t testing.TB, c *process.Children, spec process.Spec, captured bool) *worker {
	t.Helper()
	stdin, input, err := os.Pipe()
	check(t, err)
	output, stdout, err := os.Pipe()
	check(t, err)
	check(t, output.SetReadDeadline(time.Now().Add(patience)))
	spec.Files = append([]int{int(stdin.Fd()), int(stdout.Fd()), 2}, spec.Files...)
	spec.Capture = captured
	p, err := c.Start(spec)
	stdin.Close()
	stdout.Close()
	check(t, err)
	w := &worker{Process: p, input: input, output: bufio.NewReader(output), served: make(chan struct{}), exited: make(chan process.Exit, 1)}
	if captured {
		fd, why := p.Capture()
		if fd < 0 {
			t.Fatal(why)
		}
		w.listener = New(fd)
	} else {
		close(w.served)
	}
	over := make(chan struct{})
	p.Watch(func(e process.Exit) {
		w.exited <- e
		if !e.Leftovers {
			close(over)
		}
	}, func() { close(over) })
	t.Cleanup(func() {
		_ = p.SignalGroup(syscall.SIGKILL) // it may have ended
		receive(t, over, "the worker's end")
		receive(t, w.served, "Serve's end")
		input.Close()
		output.Close()
	})
	return w
}

func (w *worker) serve(handle func(Call) Answer) {
	defer close(w.served)
	w.listener.Serve(func(c Call) Answer {
		w.mu.Lock()
		w.calls = append(w.calls, c)
		w.mu.Unlock()
		return handle(c)
	})
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

// rest reads what the program prints until its end.
func (w *worker) rest(t testing.TB) string {
	t.Helper()
	text, err := io.ReadAll(w.output)
	if err != nil {
		t.Fatalf("after %q: %v", text, err)
	}
	return strings.TrimSuffix(string(text), "\n")
}

func (w *worker) write(t testing.TB, text string) {
	t.Helper()
	_, err := w.input.WriteString(text)
	check(t, err)
}

// seen is what the handler has got so far.
func (w *worker) seen() []Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

func expect[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// leave lets every call go on.
func leave(Call) Answer { return Answer{} }

// give puts copies of a socket in the place of those that are bound to its port, and
// answers listen(2) on it.
func give(t testing.TB, fd int, port uint16) func(Call) Answer {
	return func(c Call) Answer {
		switch {
		case c.Network == "tcp" && c.Address.Port() != port:
			return Answer{}
		case c.Listen:
			return Answer{Handled: true, Socket: -1}
		}
		socket, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
		}
		return Answer{Handled: true, Socket: socket}
	}
}

// listen makes a listening socket of the test's.
func listen(t testing.TB, network, address string) (fd int, at netip.AddrPort) {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(t.Context(), network, address)
	check(t, err)
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	check(t, err)
	t.Cleanup(func() { file.Close() })
	fd = int(file.Fd())
	check(t, unix.SetNonblock(fd, true))
	return fd, netip.MustParseAddrPort(l.Addr().String())
}

// cookie is SO_COOKIE.
func cookie(t testing.TB, fd int) uint64 {
	t.Helper()
	n, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	check(t, err)
	return n
}
