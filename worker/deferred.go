package worker

import (
	"encoding/binary"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// AwaitData has the kernel hand out the TCP connections of ln once their client
// has said something (TCP_DEFER_ACCEPT, tcp(7)), which spares the server a round
// of waiting for each. Serve packages call it, for listeners of [Worker.Listen]
// and protocols in which the client speaks first. One that stays silent is
// handed out after a second all the same.
func AwaitData(ln net.Listener) {
	if l, ok := ln.(*listener); ok && l.deferAccept(1) {
		l.deferred.Store(true)
	}
}

// deferAccept reports whether it could be set: everything works as well without,
// only slower.
func (l *listener) deferAccept(seconds int) bool {
	tcp, ok := l.Listener.(*net.TCPListener)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false // closed: Accept will say so
	}
	err = raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, seconds)
	})
	return err == nil
}

// looks is how often a listener that stops looks for the silent in vain before
// it closes: a table that changes while it is read may lack a line.
const looks = 3

// awaited reports whether a listener that stops has clients still that have
// connected and not spoken, as far as can be seen. They are in no queue yet, and
// lost if it closes. Only Accept calls it.
func (l *listener) awaited() bool {
	if !l.deferred.Load() || time.Now().UnixNano() >= l.stopBy.Load() {
		return false
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return false
	}
	l.inVain++
	if halfOpen(unix.AF_INET, addr.Port) || addr.IP.To4() == nil && halfOpen(unix.AF_INET6, addr.Port) {
		l.inVain = 0
	}
	return l.inVain < looks
}

// halfOpen reports whether a connection to the port is in state SYN_RECV, where
// a deferred one stays until its client speaks. It asks sock_diag(7) for these
// alone: a table of /proc/net would be read whole, in 100 ms where there are
// 15,000 connections. What cannot be asked has none: then nobody is waited for.
func halfOpen(family uint8, port int) bool {
	const (
		byFamily = 20                       // SOCK_DIAG_BY_FAMILY of linux/sock_diag.h
		states   = 1<<3 | 1<<12             // TCP_SYN_RECV and TCP_NEW_SYN_RECV of net/tcp_states.h
		size     = unix.SizeofNlMsghdr + 56 // and struct inet_diag_req_v2 of linux/inet_diag.h
	)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var m [size]byte
	binary.NativeEndian.PutUint32(m[0:], size)
	binary.NativeEndian.PutUint16(m[4:], byFamily)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	m[16], m[17] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(m[20:], states)
	binary.BigEndian.PutUint16(m[24:], uint16(port))
	if _, err := unix.Write(fd, m[:]); err != nil {
		return false
	}
	// The first message of the answer is a connection, or says that there is none.
	n, _, err := unix.Recvfrom(fd, m[:], 0)
	return err == nil && n >= unix.SizeofNlMsghdr && binary.NativeEndian.Uint16(m[4:]) == byFamily
}
