package worker

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

// Connections of other sockets than the worker was passed are counted apart, however the
// program has come to its listener, and a connection of two listeners once.
func TestElsewhere(t *testing.T) {
	listen := func(network, address string) net.Listener {
		ln, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln
	}
	for name, master := range map[string]net.Listener{
		"tcp4":     listen("tcp4", "127.0.0.1:0"),
		"tcp6":     listen("tcp6", "[::1]:0"),
		"wildcard": listen("tcp", ":0"),
		"unix":     listen("unix", filepath.Join(t.TempDir(), "s")),
		"abstract": listen("unix", "@forkd-elsewhere-"+t.Name()),
	} {
		copied := func() *os.File {
			f, err := master.(interface{ File() (*os.File, error) }).File()
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		// As the program's own net.Listen, which capture answers with the slot's socket.
		again := func(*Worker) net.Listener {
			f := copied()
			defer f.Close()
			ln, err := net.FileListener(f)
			if err != nil {
				t.Fatal(err)
			}
			return ln
		}
		taken := func(w *Worker) net.Listener {
			ln, err := w.Listen("http", "")
			if err != nil {
				t.Fatal(err)
			}
			return ln
		}
		bound := func(w *Worker) net.Listener {
			taken(w).Close()
			ln, err := w.Listen("other", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			return ln
		}
		other := func(*Worker) net.Listener { return listen("tcp", "127.0.0.1:0") }
		withTLS := func(f func(*Worker) net.Listener) func(*Worker) net.Listener {
			return func(w *Worker) net.Listener { return tls.NewListener(f(w), new(tls.Config)) }
		}
		for how, test := range map[string]struct {
			listener  func(*Worker) net.Listener
			elsewhere uint64
		}{
			"taken":          {taken, 0},
			"taken with TLS": {withTLS(taken), 0},
			"again":          {again, 0},
			"again with TLS": {withTLS(again), 0},
			"bound":          {bound, 1},
			"bound with TLS": {withTLS(bound), 1},
			"other":          {other, 1},
			"other with TLS": {withTLS(other), 1},
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				f := copied()
				defer f.Close()
				fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				w := start(ipc.Passed{Sockets: []ipc.Socket{{Name: "http", FD: fd}}, Channel: -1, Page: -1}, nil, "")
				l := w.track(test.listener(w), "")
				defer l.Close()
				client, err := net.Dial(l.Addr().Network(), l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				c, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
				if n := w.page.Counters(); n.Accepts != 1 || n.Elsewhere != test.elsewhere {
					t.Errorf("counted %+v, want %d elsewhere", n, test.elsewhere)
				}
			})
		}
	}
	// A worker without passed sockets can't tell.
	w := start(ipc.Passed{Channel: -1, Page: -1}, nil, "")
	if l := w.track(listen("tcp", "127.0.0.1:0"), ""); l.other {
		t.Error("elsewhere, and it was passed no socket")
	}
}
