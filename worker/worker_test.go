package worker

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

func TestProcs(t *testing.T) {
	for _, c := range [][3]int{{8, 8, 1}, {8, 1, 8}, {8, 3, 3}, {2, 16, 1}, {1, 1, 1}} {
		if got := procs(c[0], c[1]); got != c[2] {
			t.Errorf("%d cpus, %d slots: %d", c[0], c[1], got)
		}
	}
}

// passedSockets are listening sockets as a master passes them, by name.
func passedSockets(t *testing.T, names ...string) (sockets []ipc.Socket, ports map[string]int) {
	t.Helper()
	ports = map[string]int{}
	for _, name := range names {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		ports[name] = ln.Addr().(*net.TCPAddr).Port
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		sockets = append(sockets, ipc.Socket{FD: fd, Name: name})
	}
	return sockets, ports
}

func alone(sockets ...ipc.Socket) *Worker {
	return start(ipc.Passed{Sockets: sockets, Channel: -1, Page: -1}, nil, "")
}

// withListener is a worker alone, and its listener, which is closed in the end.
func withListener(t *testing.T) (*Worker, *listener) {
	t.Helper()
	sockets, _ := passedSockets(t, "http")
	w := alone(sockets...)
	ln, err := w.Listen("http", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return w, ln.(*listener)
}

func TestListenClaims(t *testing.T) {
	sockets, ports := passedSockets(t, "a", "b", "c")
	w := alone(sockets...)
	for _, s := range sockets {
		if flags, err := unix.FcntlInt(uintptr(s.FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("socket %s goes on to children: %x, %v", s.Name, flags, err)
		}
	}
	for _, c := range []struct{ name, address, want string }{
		{"b", ":" + strconv.Itoa(ports["a"]), "b"}, // the name comes first
		{"x", ":" + strconv.Itoa(ports["a"]), "a"}, // then the port
		{"x", ":1", "c"},         // then the only one left
		{"a", "127.0.0.1:0", ""}, // then its own
	} {
		ln, err := w.Listen(c.name, c.address)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		port := ln.Addr().(*net.TCPAddr).Port
		if c.want != "" && port != ports[c.want] {
			t.Errorf("%s (%s) is on port %d, want that of %s", c.name, c.address, port, c.want)
		}
		for _, p := range ports {
			if c.want == "" && p == port {
				t.Errorf("%s (%s) is on a socket that was claimed", c.name, c.address)
			}
		}
	}
}

// With two sockets that nothing fits, guessing would be wrong half of the time.
func TestListenDoesNotGuess(t *testing.T) {
	sockets, ports := passedSockets(t, "a", "b")
	ln, err := alone(sockets...).Listen("x", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if p := ln.Addr().(*net.TCPAddr).Port; p == ports["a"] || p == ports["b"] {
		t.Error("took a socket that nothing says is its own")
	}
	for _, s := range sockets {
		unix.Close(s.FD)
	}
}

func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for _, address := range []string{"unix:" + path, "unix://" + path} {
		ln, err := alone().Listen("s", address)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		ln.Close()
	}
}

func TestListenReportsNonsense(t *testing.T) {
	w := alone(ipc.Socket{FD: 1 << 20, Name: "http"})
	if _, err := w.Listen("http", ":0"); err == nil || !strings.Contains(err.Error(), "descriptor 1048576") {
		t.Error(err)
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	w = start(ipc.Passed{Channel: fd, Page: -1}, nil, "")
	if _, err := w.Listen("http", ":0"); err == nil || !strings.Contains(err.Error(), "cannot open channel") {
		t.Error(err)
	}
}

// A supervisor without a channel hears it as sd_notify(3) has it.
func TestReadyByNotifySocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := start(ipc.Passed{Channel: -1, Page: -1}, nil, path)
	w.Ready()
	w.Ready()
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(b); err == nil {
		t.Errorf("said twice: %q", b[:n])
	}
}

func TestAlone(t *testing.T) {
	w := alone()
	w.Ready()
	if err := w.Send("x"); err == nil || !strings.Contains(err.Error(), "no master") {
		t.Error(err)
	}
	if r, d := w.Reason(), w.Deadline(); r != "" || !d.IsZero() || w.Request() {
		t.Errorf("drains for %q until %v", r, d)
	}
	select {
	case <-w.Draining():
		t.Error("drains")
	case m := <-w.Messages():
		t.Errorf("got %s", m)
	default:
	}
}
