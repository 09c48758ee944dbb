package worker

import (
	"net"
	"reflect"

	"golang.org/x/sys/unix"
)

// inheritKeepAlive sets on the listening socket what net sets on each connection (first
// probe after 15 s, then every 15 s, 9 of them): connections inherit it. net takes 4
// system calls for it, of 14 that a connection with one request takes.
//
// net cannot be told that for a listener made of a descriptor, so this writes the field of
// net.TCPListener. With a Go that has no such field, net goes on as before.
func (l *listener) inheritKeepAlive() {
	tcp, ok := l.Listener.(*net.TCPListener)
	if !ok {
		return
	}
	config := reflect.ValueOf(tcp).Elem().FieldByName("lc")
	raw, err := tcp.SyscallConn()
	if err != nil || !config.IsValid() || config.Type() != reflect.TypeFor[net.ListenConfig]() {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for _, o := range [][3]int{
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		} {
			if unix.SetsockoptInt(int(fd), o[0], o[1], o[2]) != nil {
				return
			}
		}
		// Of a listening socket it is the length of its queue (tcp_get_info in the kernel).
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		l.queued.Store(int64(info.Unacked))
		(*net.ListenConfig)(config.Addr().UnsafePointer()).KeepAlive = -1
	})
}

// keepAlive is for a connection that may have been in the queue before inheritKeepAlive.
func (l *listener) keepAlive(nc net.Conn) {
	if l.queued.Add(-1) < 0 {
		return
	}
	if tcp, ok := nc.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true})
	}
}
