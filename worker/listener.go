package worker

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// quiet ends the last accepts of a listener: nothing came for so long.
	quiet = 10 * time.Millisecond
	// lastAccepts bounds them where something always comes.
	lastAccepts = 500 * time.Millisecond
)

// listener counts what it accepts and keeps it in its set.
type listener struct {
	net.Listener
	worker *Worker
	set    set

	first     sync.Once
	accepting func() // called when the first Accept begins

	stopping atomic.Bool
	stopBy   atomic.Int64 // Unix nanoseconds
}

// track makes a listener of w's out of any other. One of w's own stays what it
// is.
func (w *Worker) track(ln net.Listener) *listener {
	if l, ok := ln.(*listener); ok && l.worker == w {
		return l
	}
	return &listener{Listener: ln, worker: w, set: newSet(), accepting: func() {}}
}

// Plain reports whether a listener's connections come as the kernel gave them:
// with no TLS or other protocol around them yet.
func Plain(ln net.Listener) bool {
	switch l := ln.(type) {
	case *net.TCPListener, *net.UnixListener:
		return true
	case *listener:
		return Plain(l.Listener)
	}
	return false
}

// AwaitData has the kernel hand out the TCP connections of ln once their client
// has said something (TCP_DEFER_ACCEPT, tcp(7)), which spares the server a round
// of waiting for each. Serve packages call it for protocols in which the client
// speaks first. One that stays silent is handed out after a second all the same.
func AwaitData(ln net.Listener) {
	if l, ok := ln.(*listener); ok {
		ln = l.Listener
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return // closed: Accept will say so
	}
	_ = raw.Control(func(fd uintptr) {
		// Without it everything works as well, only slower.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
	})
}

// Accept is net.Listener's.
func (l *listener) Accept() (net.Conn, error) {
	l.first.Do(l.accepting)
	if l.stopping.Load() {
		l.extend()
	}
	nc, err := l.Listener.Accept()
	if l.stopping.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		l.Close()
		return nil, net.ErrClosed
	}
	if err != nil {
		return nil, err
	}
	return l.keep(nc), nil
}

// keep counts a connection and puts it into the set. One that a listener further
// in has counted already (this one was made around it, for TLS perhaps) moves
// to this set: here is who drains it.
func (l *listener) keep(nc net.Conn) net.Conn {
	var (
		c       *conn
		wrapped net.Conn
	)
	switch raw := nc.(type) {
	case *net.TCPConn:
		t := &tcpConn{TCPConn: raw}
		c, wrapped = &t.conn, t
	case *net.UnixConn:
		u := &unixConn{UnixConn: raw}
		c, wrapped = &u.conn, u
	default:
		if c := tracked(nc); c != nil {
			c.set.remove(c)
			l.set.add(c)
			return nc
		}
		o := &otherConn{Conn: raw}
		c, wrapped = &o.conn, o
	}
	c.raw, c.worker = nc, l.worker
	l.set.add(c)
	l.worker.page.Opened()
	return wrapped
}

// stop ends accepting. Where another process serves the socket from now on, at
// once: what is queued is its. Where none does (last), what is queued now is
// accepted first, until nothing more comes.
func (l *listener) stop(last bool) {
	if _, ok := l.Listener.(interface{ SetDeadline(time.Time) error }); !ok || !last {
		l.Close()
		return
	}
	l.stopBy.Store(time.Now().Add(lastAccepts).UnixNano())
	l.stopping.Store(true)
	l.extend()
}

// extend lets Accept wait a little longer. A new deadline also undoes one that
// has passed, with which Accept would not even look at the queue.
func (l *listener) extend() {
	until := min(time.Now().Add(quiet).UnixNano(), l.stopBy.Load())
	_ = l.Listener.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Unix(0, until))
}
