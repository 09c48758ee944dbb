package worker

import (
	"encoding/binary"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// AwaitData makes Accept return TCP connections of ln when their first data has come
// (TCP_DEFER_ACCEPT, tcp(7)), after a second at the latest. That saves a wait for
// each connection. Serve packages call it, for listeners of [Worker.Listen] and
// protocols in which the client speaks first.
func AwaitData(ln net.Listener) {
	if l, ok := ln.(*listener); ok && l.deferAccept(1) {
		l.deferred.Store(true)
	}
}

// deferAccept sets the option and reports whether it could.
func (l *listener) deferAccept(seconds int) (set bool) {
	if tcp, ok := l.Listener.(*net.TCPListener); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, seconds) == nil
			})
		}
	}
	return set
}

// maxEmptyPolls is how often a stopping listener looks for silent clients and finds
// none before it closes: a table that changes while it is read may lack a line.
const maxEmptyPolls = 3

// hasSilentClients reports whether clients of a stopping listener have connected and
// sent nothing yet. They are in no queue, and get a reset if it closes. Only Accept
// calls it.
func (l *listener) hasSilentClients() bool {
	if !l.deferred.Load() || time.Now().UnixNano() >= l.stopBy.Load() {
		return false
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return false
	}
	l.emptyPolls++
	if halfOpen(unix.AF_INET, addr.Port) || addr.IP.To4() == nil && halfOpen(unix.AF_INET6, addr.Port) {
		l.emptyPolls = 0
	}
	return l.emptyPolls < maxEmptyPolls
}

// halfOpen reports whether a connection to the port is in state SYN_RECV, where a
// deferred one stays until its first data. It asks sock_diag(7) for these alone:
// reading /proc/net/tcp takes 100 ms with 15,000 connections. If it cannot ask,
// there are none.
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
	// The first message of the reply is a connection, or says that there is none.
	n, _, err := unix.Recvfrom(fd, m[:], 0)
	return err == nil && n >= unix.SizeofNlMsghdr && binary.NativeEndian.Uint16(m[4:]) == byFamily
}
