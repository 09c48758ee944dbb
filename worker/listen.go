package worker

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

// Listen returns a passed socket: the one of this name, else the one on this port
// (or path), else the last one that is not yet taken. A program with several
// listeners should use the names of its configuration. If there is no such socket,
// Listen binds the address: ":8080", "127.0.0.1:8080" or "unix:/run/shop.sock".
//
// Its connections are counted for the master. The caller owns the listener; Serve
// closes it.
func (w *Worker) Listen(name, address string) (net.Listener, error) {
	ln, passed, err := w.listen(name, address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s (%s): %w", address, name, err)
	}
	l := w.track(ln, passed)
	l.inheritKeepAlive()
	return l, nil
}

// listen also returns the name of the socket, if it was passed.
func (w *Worker) listen(name, address string) (ln net.Listener, passed string, err error) {
	if w.err != nil {
		return nil, "", w.err
	}
	if s, ok := w.takeSocket(name, address); ok {
		// FileListener duplicates the descriptor.
		f := os.NewFile(uintptr(s.FD), s.Name)
		defer f.Close()
		ln, err = net.FileListener(f)
		return ln, s.Name, err
	}
	if path, ok := unixPath(address); ok {
		ln, err = net.Listen("unix", path)
		return ln, "", err
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // as the master's sockets: MPTCP ones can't be steered
	ln, err = lc.Listen(context.Background(), "tcp", address)
	return ln, "", err
}

// takeSocket takes one of the passed sockets that are left.
func (w *Worker) takeSocket(name, address string) (ipc.Socket, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.sockets, func(s ipc.Socket) bool { return name != "" && s.Name == name })
	if i < 0 {
		i = slices.IndexFunc(w.sockets, func(s ipc.Socket) bool { return boundTo(s.FD, address) })
	}
	if i < 0 && len(w.sockets) == 1 {
		i = 0
	}
	if i < 0 {
		return ipc.Socket{}, false
	}
	s := w.sockets[i]
	w.sockets = slices.Delete(slices.Clone(w.sockets), i, i+1)
	return s, true
}

// boundTo reports whether a socket is on an address's port or path. The host does
// not matter: the master's configuration decides it.
func boundTo(fd int, address string) bool {
	if path, ok := unixPath(address); ok {
		local, ok := boundAt(fd).(*net.UnixAddr)
		return ok && local.Name == path
	}
	_, service, _ := net.SplitHostPort(address)
	port, err := net.LookupPort("tcp", service)
	local, ok := boundAt(fd).(*net.TCPAddr)
	return ok && err == nil && port != 0 && local.Port == port
}

// boundAt is the address of a passed socket, without its zone; nil: it has none.
func boundAt(fd int) net.Addr {
	name, _ := unix.Getsockname(fd)
	switch local := name.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: local.Addr[:], Port: local.Port}
	case *unix.SockaddrInet6:
		return &net.TCPAddr{IP: local.Addr[:], Port: local.Port}
	case *unix.SockaddrUnix:
		return &net.UnixAddr{Name: local.Name, Net: "unix"}
	}
	return nil
}

// endpoint is an address without its zone, which a sockaddr has as a number.
func endpoint(a net.Addr) string {
	switch a := a.(type) {
	case *net.TCPAddr:
		return (&net.TCPAddr{IP: a.IP, Port: a.Port}).String()
	case nil: // of a listener of the program's own
		return ""
	default:
		return a.String()
	}
}

// unixPath is the path of unix:/path and unix:///path.
func unixPath(address string) (string, bool) {
	path, ok := strings.CutPrefix(address, "unix:")
	return strings.TrimPrefix(path, "//"), ok
}
