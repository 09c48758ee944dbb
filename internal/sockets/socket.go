package sockets

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/libp2p/go-reuseport"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
)

// socket is one that listens, and whose it is.
type socket struct {
	fd      int             // -1: closed
	backlog uint32          // what the kernel made of the configured one
	closer  *closing.Closer // of a unix socket; nil: TCP
	held    bool            // a socket unit of systemd's has it too: it is never ended
	parked  bool            // kept open for no slot: steered away from
	stored  string          // its name in the fd store, "": it is not there
	cookie  uint64          // of one in the fd store, or in a group
	unit    string          // its name from the socket unit
	spoilt  bool            // a worker has set what cannot be set back: told
	options [][]byte        // of one of a socket unit's, as it was passed
}

func noSocket() *socket { return &socket{fd: -1} }

// at is the slot's member, a closed one where it has none.
func at(members []*socket, slot int) *socket {
	if slot >= len(members) {
		return noSocket()
	}
	return members[slot]
}

// listen sets the backlog (again), and remembers what the kernel made of it.
func (m *socket) listen(backlog int) (err error) {
	if m.closer != nil {
		return m.listenUnix(backlog)
	}
	m.backlog, err = listen(m.fd, backlog)
	return err
}

// reconfigure takes over a listener's new backlog. Where that cannot be had, the
// one that it has stays.
func (m *socket) reconfigure(s *Set, before, now Listener, of string) {
	if m.fd < 0 || now.Backlog == before.Backlog {
		return
	}
	if err := m.listen(now.Backlog); err != nil {
		s.notice("cannot set the backlog of %s%s: %v", of, now, err)
	}
}

// ofSlot says, before a listener's name, that one slot's socket is meant; that for
// all is no slot's, -1.
func ofSlot(slot int) string {
	if slot < 0 {
		return ""
	}
	return fmt.Sprintf("slot %d on ", slot)
}

// mend undoes what a worker did to it, and says what that was. revived: it had left
// its group.
func (m *socket) mend(s *Set, l Listener, slot int) (undone string, revived bool, err error) {
	if m.fd < 0 {
		return "", false, nil
	}
	state, err := inspect(m.fd)
	if err != nil || !state.listens || state.backlog != m.backlog {
		undone = "a worker had changed the backlog"
		if revived = !state.listens; revived {
			undone = "a worker had shut the socket down"
		}
		if err == nil && revived {
			err = disconnect(m.fd)
		}
		if err == nil {
			err = m.listen(l.Backlog)
		}
		if err != nil {
			return "", false, fmt.Errorf("cannot listen again on %s%s: %w", ofSlot(slot), l, err)
		}
	}
	// A filter can drop every new connection (socket(7)).
	switch err := unix.SetsockoptInt(m.fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); {
	case err == nil:
		undone = joinWords(undone, "a worker had set a filter (SO_ATTACH_FILTER)")
	case errors.Is(err, unix.EPERM):
		m.spoil(s, l, slot, lockFilter)
	}
	return undone, revived, nil
}

// joinWords lists what was done.
func joinWords(list, more string) string {
	if list != "" && more != "" {
		list += ", "
	}
	return list + more
}

// keepShared sets SO_REUSEPORT again: with it off, the kernel may give a socket all
// connections past its group, and lets no other be bound.
func (m *socket) keepShared() (changed bool, err error) {
	on, err := unix.GetsockoptInt(m.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT)
	if err != nil || on != 0 {
		return false, os.NewSyscallError("getsockopt SO_REUSEPORT", err)
	}
	return true, share(m.fd)
}

// waiting counts its queue. It is false where it does not listen.
func (m *socket) waiting() (n int, listens bool) {
	if m.fd < 0 {
		return 0, false
	}
	state, err := inspect(m.fd)
	return state.queue, err == nil && state.listens
}

// flush resets what is queued in a TCP socket that has to go on listening.
func (m *socket) flush(backlog int) error {
	unix.Shutdown(m.fd, unix.SHUT_RDWR) // fails only where it does not listen
	if err := disconnect(m.fd); err != nil {
		return err
	}
	_, err := listen(m.fd, backlog)
	return err
}

// flushQueued does so if anything is queued.
func (m *socket) flushQueued(l Listener, slot int) error {
	if n, listens := m.waiting(); !listens || n == 0 {
		return nil
	}
	if err := m.flush(l.Backlog); err != nil {
		return fmt.Errorf("cannot reset the queue of slot %d on %s: %w", slot, l, err)
	}
	return nil
}

// end closes it for every holder and resets its queue: a copy in a process that
// outlived its worker would else keep the queue hanging, and its share.
func (m *socket) end() {
	if m.fd >= 0 {
		unix.Shutdown(m.fd, unix.SHUT_RDWR) // fails only where a worker has done it
		m.close()
	}
}

// close gives the descriptor up, and never waits. Clients can queue descriptors in
// a unix socket. A TCP socket that listens never lingers; one that does not may
// have been connected by a worker, with SO_LINGER and unsent data: these go first.
func (m *socket) close() {
	if m.fd < 0 {
		return
	}
	fd := m.fd
	m.fd = -1
	if m.closer != nil {
		go m.closer.Run(func() { unix.Close(fd) })
		return
	}
	if state, err := inspect(fd); err == nil && !state.listens {
		_ = disconnect(fd) // fails only while a process waits in it, which has a copy then
	}
	unix.Close(fd)
}

// bind makes one bound TCP socket, never MPTCP, and close-on-exec. A socket
// that does not join is the first of its group: it is bound without
// SO_REUSEPORT, so that a port in use by anybody, the same user included, is
// EADDRINUSE, and lets others join only after that. (Two programs that bind
// within the few microseconds before either listens are not told apart.)
func (e endpoint) bind(join bool, l Listener) (fd int, err error) {
	if e.port == 0 {
		return e.bindAny(l, func(e endpoint) (int, error) { return e.bind(false, l) })
	}
	if join {
		return e.bindWith(l, share)
	}
	if fd, err = e.bindAlone(l); err != nil {
		return -1, err
	}
	if err := share(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// bindAlone binds a socket that nobody can join.
func (e endpoint) bindAlone(l Listener) (fd int, err error) {
	if e.port == 0 {
		return e.bindAny(l, func(e endpoint) (int, error) { return e.bindAlone(l) })
	}
	return e.bindWith(l, func(fd int) error {
		return os.NewSyscallError("setsockopt SO_REUSEADDR", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	})
}

// listenAlone makes a socket that listens, and that nobody can join.
func (e endpoint) listenAlone(l Listener) (sock socket, err error) {
	if sock.fd, err = e.bindAlone(l); err == nil {
		if err = sock.listen(l.Backlog); err != nil {
			unix.Close(sock.fd)
		}
	}
	if err != nil {
		return socket{fd: -1}, e.explain(l, err)
	}
	return sock, nil
}

func (e endpoint) bindWith(l Listener, prepare func(fd int) error) (fd int, err error) {
	if fd, err = e.socket(l); err != nil {
		return -1, err
	}
	if err = prepare(fd); err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, e.sockaddr()))
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// bindAny binds to a port that the kernel picks. Somebody else may take it
// first: then it is another.
func (e endpoint) bindAny(l Listener, bind func(e endpoint) (int, error)) (fd int, err error) {
	for range 8 {
		if e.port, err = e.freePort(l); err != nil {
			return -1, err
		}
		if fd, err = bind(e); !errors.Is(err, unix.EADDRINUSE) {
			return fd, err
		}
	}
	return -1, err
}

// freePort asks the kernel for a port. A socket bound to port 0 loses its port when
// it is shut down (inet_csk: no SOCK_BINDPORT_LOCK) and could not be restored, so
// that such a one only finds the port for one bound by number.
func (e endpoint) freePort(l Listener) (int, error) {
	scout, err := e.socket(l)
	if err != nil {
		return 0, err
	}
	defer unix.Close(scout)
	if err := unix.Bind(scout, e.sockaddr()); err != nil {
		return 0, os.NewSyscallError("bind", err)
	}
	return boundPort(scout)
}

func (e endpoint) socket(l Listener) (fd int, err error) {
	kind := unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	if l.Nonblocking {
		kind |= unix.SOCK_NONBLOCK
	}
	fd, err = unix.Socket(e.family(), kind, unix.IPPROTO_TCP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if e.family() == unix.AF_INET6 {
		only := 0
		if !e.dual {
			only = 1
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
		}
	}
	if l.Freebind { // of IPv6 too: ip(7) and ipv6(7) have one flag
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1); err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("setsockopt IP_FREEBIND", err)
		}
	}
	return fd, nil
}

// share lets sockets of the same user join: SO_REUSEADDR and SO_REUSEPORT.
func share(fd int) error {
	return os.NewSyscallError("setsockopt SO_REUSEPORT", reuseport.Control("tcp", "", rawConn(fd)))
}

// listen (again), and say what backlog the kernel made of it.
func listen(fd, backlog int) (uint32, error) {
	if err := unix.Listen(fd, backlog); err != nil {
		return 0, os.NewSyscallError("listen", err)
	}
	state, err := inspect(fd)
	return state.backlog, err
}

// state is what the kernel says of a listening socket.
type state struct {
	listens bool
	queue   int    // connections that wait to be accepted
	backlog uint32 // how many may
}

// inspect reads TCP_INFO, where a listening socket shows its queue in
// tcpi_unacked and its limit in tcpi_sacked (tcp_get_info in net/ipv4/tcp.c).
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

// disconnect makes a bound socket as good as new, as connect(2) to AF_UNSPEC
// does: one that was shut down twice would else hand its SHUT_RDWR down to
// every connection accepted from it.
func disconnect(fd int) error {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	if errno != 0 {
		return os.NewSyscallError("connect AF_UNSPEC", errno)
	}
	return nil
}

func boundPort(fd int) (int, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return name.Port, nil
	case *unix.SockaddrInet6:
		return name.Port, nil
	default:
		return 0, errors.New("getsockname: not an internet address")
	}
}

// openFiles counts this process's descriptors, for an error message.
func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries) - 1 // but the one that was read from
}

// rawConn shows a descriptor to go-reuseport, which only calls Control.
type rawConn int

func (c rawConn) Control(f func(fd uintptr)) error {
	f(uintptr(c))
	return nil
}

func (rawConn) Read(func(fd uintptr) bool) error  { return errors.ErrUnsupported }
func (rawConn) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }
