package worker

import (
	"bufio"
	"net"
	"os"
	"strconv"
	"strings"
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
	if halfOpen("/proc/net/tcp", addr.Port) || halfOpen("/proc/net/tcp6", addr.Port) {
		l.inVain = 0
	}
	return l.inVain < looks
}

// halfOpen reports whether a connection to the port is in state SYN_RECV (03 in
// proc(5)'s table of sockets), where a deferred one stays until its client
// speaks.
func halfOpen(table string, port int) bool {
	file, err := os.Open(table)
	if err != nil {
		return false // no IPv6, or no /proc: then nobody is waited for
	}
	defer file.Close()
	suffix := ":" + strings.ToUpper(strconv.FormatInt(0x10000+int64(port), 16)[1:])
	for lines := bufio.NewScanner(file); lines.Scan(); {
		// sl, local address, remote address, state, ...
		fields := strings.Fields(lines.Text())
		if len(fields) > 3 && fields[3] == "03" && strings.HasSuffix(fields[1], suffix) {
			return true
		}
	}
	return false
}
