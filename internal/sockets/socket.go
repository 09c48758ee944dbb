package sockets

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"github.com/libp2p/go-reuseport"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
)

type socket struct {
	fd        int             // -1: closed
	slot      int             // that it was made for; 0 for all
	cookie    uint64          // the kernel's name for it
	backlog   uint32          // what the kernel made of the configured one
	closer    *closing.Closer // of a unix socket; nil: TCP
	stored    string          // its name in the fd store, "": it is not there
	unitOwned bool            // a socket unit of systemd's has it too: it is never ended
	passedAs  string          // its name among the passed ones
	at        bindAddr        // of TCP and passed ones; without a path where a unix socket has no file
	listener  string          // of LISTENER.SLOT, as it was passed
	options   [][]byte        // of a socket unit's, as it was passed
	given     [][]byte        // the options that a program's own socket had, see imitate
	fastopen  int             // TCP_FASTOPEN as the first listen(2) has set it
	damaged   bool            // a worker has set what cannot be set back: told

	next    *socket      // of a group: another one for the slot, see group.fileFor
	nextFor *ListenerSet // whose workers have that
}

func (m *socket) isUnix() bool { return m.closer != nil }

func newSocket(fd int) *socket { return &socket{fd: fd, cookie: cookie(fd)} }

// listen sets the backlog and reads it back, of a unix socket where sock_diag shows it.
func (m *socket) listen(backlog int) error {
	if err := unix.Listen(m.fd, backlog); err != nil {
		return os.NewSyscallError("listen", err)
	}
	if m.backlog == 0 && !m.isUnix() {
		m.fastopen, _ = unix.GetsockoptInt(m.fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN)
	}
	state, err := m.inspect()
	if m.isUnix() && err != nil {
		m.backlog = 0
		return nil
	}
	m.backlog = state.backlog
	return err
}

// mend undoes what a worker did to a TCP socket. revived: it had left its group.
func (m *socket) mend(b *boundAddress) (undone []string, revived bool, err error) {
	state, err := m.inspect()
	if err != nil || !state.listens || state.backlog != m.backlog {
		undone = []string{"a worker had changed the backlog"}
		if revived = !state.listens; revived {
			undone = []string{"a worker had shut the socket down"}
		}
		if err == nil && revived {
			err = disconnect(m.fd)
		}
		if err == nil {
			err = m.listen(b.listener.Backlog)
		}
		if err != nil {
			return nil, false, fmt.Errorf("cannot listen again on %s: %w", b.describe(m), err)
		}
	}
	// A filter can drop every new connection (socket(7)).
	switch err := unix.SetsockoptInt(m.fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); {
	case err == nil:
		undone = append(undone, "a worker had set a filter (SO_ATTACH_FILTER)")
	case errors.Is(err, unix.EPERM):
		m.reportDamage(b, lockFilter)
	}
	return undone, revived, nil
}

func (m *socket) waiting() (n int, listens bool) {
	if m.isUnix() && hungUp(m.fd) {
		return 0, false
	}
	state, err := m.inspect()
	return state.queue, err == nil && state.listens
}

// flush resets the connections queued in a TCP socket that goes on listening.
func (b *boundAddress) flush(m *socket) error {
	if n, listens := m.waiting(); !listens || n == 0 {
		return nil
	}
	unix.Shutdown(m.fd, unix.SHUT_RDWR) // fails only where it does not listen
	err := disconnect(m.fd)
	if err == nil {
		err = m.listen(b.listener.Backlog)
	}
	if err != nil {
		return fmt.Errorf("cannot reset the queue of slot %d on %s: %w", m.slot, b.listener, err)
	}
	return nil
}

// end closes the socket for every holder and resets its queue: a process that outlived its
// worker may have a copy.
func (m *socket) end() {
	if m.fd >= 0 {
		m.discard(unix.Shutdown(m.fd, unix.SHUT_RDWR) == nil) // fails only where a worker has done it
	}
}

// close closes the descriptor without blocking.
func (m *socket) close() { m.discard(false) }

// discard closes the descriptor. A unix socket's queue survives shutdown(2) while somebody
// has a copy, and may hold descriptors that clients sent. A worker may have connected a TCP
// socket that does not listen, with SO_LINGER and unsent data: close(2) would wait.
func (m *socket) discard(ended bool) {
	if m.fd < 0 {
		return
	}
	fd := m.fd
	m.fd = -1
	if !m.isUnix() {
		if state, err := inspect(fd); err == nil && !state.listens {
			_ = disconnect(fd) // fails only while a process waits in it, which has a copy then
		}
		unix.Close(fd)
		return
	}
	go m.closer.Run(func() {
		for ended {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC) // does not block after shutdown(2)
			if err != nil {
				break
			}
			unix.Close(conn)
		}
		unix.Close(fd)
	})
}

// sharing says who else can bind a socket's port.
type sharing int

const (
	exclusive sharing = iota // nobody
	first                    // the same user, but nobody is there yet
	joining                  // the same user
	probing                  // it is about to be closed
)

// listen makes a listening TCP socket, never MPTCP, close-on-exec.
//
// Port 0 is a port that the kernel picks. A socket bound to port 0 loses its port at
// shutdown(2) (no SOCK_BINDPORT_LOCK), so a first socket only finds a port, and a second
// is bound to it by number.
func (e endpoint) listen(l Listener, how sharing) (*socket, error) {
	at, fd, err := e, -1, error(nil)
	for range 8 { // somebody else may take the port first
		if e.port == 0 {
			if at.port, err = e.freePort(l); err != nil {
				return nil, err
			}
		}
		if fd, err = at.bind(l, how); e.port != 0 || !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	m := newSocket(fd)
	m.at.end = at
	if err = m.listen(l.Backlog); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (e endpoint) freePort(l Listener) (int, error) {
	probe, err := e.bind(l, probing)
	if err != nil {
		return 0, err
	}
	defer unix.Close(probe)
	return boundPort(probe)
}

// bind sets SO_REUSEPORT on a group's first socket only after bind(2): a port in use by
// anybody, even the same user, is EADDRINUSE. (Two programs that bind within
// microseconds, before either listens, are not told apart.)
func (e endpoint) bind(l Listener, how sharing) (fd int, err error) {
	if fd, err = e.socket(l); err != nil {
		return -1, err
	}
	switch how {
	case joining:
		err = share(fd)
	case exclusive, first:
		err = os.NewSyscallError("setsockopt SO_REUSEADDR", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	case probing:
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, e.sockaddr()))
	}
	if err == nil && how == first {
		err = share(fd)
	}
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

func (e endpoint) socket(l Listener) (fd int, err error) {
	if fd, err = l.socket(e.family(), unix.IPPROTO_TCP); err != nil {
		return -1, err
	}
	if e.family() == unix.AF_INET6 {
		only := 1
		if e.dual {
			only = 0
		}
		err = os.NewSyscallError("setsockopt IPV6_V6ONLY", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only))
	}
	if err == nil && l.Freebind { // of IPv6 too: ip(7) and ipv6(7) have one flag
		err = os.NewSyscallError("setsockopt IP_FREEBIND", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1))
	}
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

func (l Listener) socket(family, protocol int) (int, error) {
	kind := unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	if l.Nonblocking {
		kind |= unix.SOCK_NONBLOCK
	}
	fd, err := unix.Socket(family, kind, protocol)
	return fd, os.NewSyscallError("socket", err)
}

// share sets SO_REUSEPORT, and SO_REUSEADDR.
func share(fd int) error {
	return os.NewSyscallError("setsockopt SO_REUSEPORT", reuseport.Control("tcp", "", rawConn{fd: fd}))
}

// state is what the kernel tells about a listening socket.
type state struct {
	listens bool
	queue   int    // connections that wait to be accepted
	backlog uint32 // how many may
	inode   uint64 // of a unix socket's file, 0: not known
}

func (m *socket) inspect() (state, error) {
	if !m.isUnix() {
		return inspect(m.fd)
	}
	return inspectUnix(inode(m.fd))
}

// inspect reads TCP_INFO: a listening socket's queue is in tcpi_unacked, its limit in
// tcpi_sacked (tcp_get_info in net/ipv4/tcp.c).
func inspect(fd int) (state, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return state{}, os.NewSyscallError("getsockopt TCP_INFO", err)
	}
	if info.State != unix.BPF_TCP_LISTEN {
		return state{}, nil
	}
	return state{listens: true, queue: int(info.Unacked), backlog: info.Sacked}, nil
}

// disconnect makes a bound socket as new (connect(2) to AF_UNSPEC). After two shutdowns
// it would else pass SHUT_RDWR on to every accepted connection.
func disconnect(fd int) error {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	if errno != 0 {
		return os.NewSyscallError("connect AF_UNSPEC", errno)
	}
	return nil
}

func localAddr(fd int) (at bindAddr, err error) {
	name, err := unix.Getsockname(fd)
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		at.end = endpoint{addr: netip.AddrFrom4(name.Addr), port: name.Port}
	case *unix.SockaddrInet6:
		at.end = endpoint{addr: netip.AddrFrom16(name.Addr).Unmap(), port: name.Port, scope: name.ZoneId}
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		at.end.dual = err == nil && only == 0 && at.end.addr == netip.IPv6Unspecified()
	case *unix.SockaddrUnix:
		at.path = name.Name
	}
	return at, os.NewSyscallError("getsockname", err)
}

func boundPort(fd int) (int, error) {
	at, err := localAddr(fd)
	return at.end.port, err
}

func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return max(len(entries)-1, 0) // but the one that was read from
}

// rawConn adapts a descriptor to go-reuseport, which only calls Control.
type rawConn struct {
	syscall.RawConn
	fd int
}

func (c rawConn) Control(f func(fd uintptr)) error {
	f(uintptr(c.fd))
	return nil
}
