package sockets

import (
	"errors"
	"os"
	"unsafe"

	"github.com/libp2p/go-reuseport"
	"golang.org/x/sys/unix"
)

// bind makes one bound TCP socket, never MPTCP, and close-on-exec. A socket
// that does not join is the first of its group: it is bound without
// SO_REUSEPORT, so that a port in use by anybody, the same user included, is
// EADDRINUSE, and lets others join only after that. (Two programs that bind
// within the few microseconds before either listens are not told apart.)
func (e endpoint) bind(join, nonblocking bool) (fd int, err error) {
	if e.port == 0 {
		return e.bindAny(nonblocking)
	}
	if fd, err = e.socket(nonblocking); err != nil {
		return -1, err
	}
	if join {
		err = share(fd)
	} else {
		err = os.NewSyscallError("setsockopt SO_REUSEADDR", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, e.sockaddr()))
	}
	if err == nil && !join {
		err = share(fd)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// bindAny binds to a port that the kernel picks. A socket bound to port 0 loses
// its port when it is shut down (inet_csk: no SOCK_BINDPORT_LOCK) and could not
// be restored, so that such a one only finds the port for one bound by number.
func (e endpoint) bindAny(nonblocking bool) (fd int, err error) {
	scout, err := e.socket(nonblocking)
	if err != nil {
		return -1, err
	}
	defer unix.Close(scout)
	if err := unix.Bind(scout, e.sockaddr()); err != nil {
		return -1, os.NewSyscallError("bind", err)
	}
	if err := share(scout); err != nil {
		return -1, err
	}
	if e.port, err = boundPort(scout); err != nil {
		return -1, err
	}
	return e.bind(true, nonblocking)
}

func (e endpoint) socket(nonblocking bool) (fd int, err error) {
	kind := unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	if nonblocking {
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
