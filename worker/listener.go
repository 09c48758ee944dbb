package worker

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
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

	deferred atomic.Bool // see AwaitData
	inVain   int         // see awaited

	first     sync.Once
	accepting func() // called when the first Accept begins

	refuse func(net.Conn) // answers what is over the worker's limit; nil: there is none

	stopping atomic.Bool
	stopBy   atomic.Int64 // Unix nanoseconds
}

// track makes a listener of w's out of any other. One of w's own stays what it
// is.
func (w *Worker) track(ln net.Listener) *listener {
	if l, ok := ln.(*listener); ok && l.worker == w {
		return l
	}
	return &listener{Listener: ln, worker: w, set: newSet(&w.all), accepting: func() {}}
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

// Accept is net.Listener's.
func (l *listener) Accept() (net.Conn, error) {
	l.first.Do(l.accepting)
	for {
		if l.stopping.Load() {
			l.extend()
		}
		nc, err := l.Listener.Accept()
		switch {
		case err == nil:
			if kept := l.keep(nc); kept != nil {
				return kept, nil
			}
		case !l.stopping.Load() || !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		case !l.awaited():
			l.Close()
			return nil, net.ErrClosed
		}
	}
}

// keep counts a connection and puts it into the set. One that a listener further
// in has counted already (this one was made around it, for TLS perhaps) moves
// to this set: here is who drains it. It returns nil where the worker has as many
// connections as it may have, and this one is turned away.
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
			if l.expel() {
				l.turnAway(c, nc)
				return nil
			}
			l.set.add(c)
			return nc
		}
		o := &otherConn{Conn: raw}
		c, wrapped = &o.conn, o
	}
	c.raw, c.worker, c.accepted = nc, l.worker, time.Now()
	if !l.admit() {
		l.turnAway(c, wrapped)
		return nil
	}
	l.set.add(c)
	return wrapped
}

// stop ends accepting. Where another process serves the socket from now on, at
// once: what is queued is its. Where none does (last), what is queued now is
// accepted first, until nothing more comes.
func (l *listener) stop(last bool, idle time.Duration) {
	if _, ok := l.Listener.(interface{ SetDeadline(time.Time) error }); !ok || !last {
		l.Close()
		return
	}
	patience := lastAccepts
	if l.deferred.Load() {
		l.deferAccept(0)
		patience = max(patience, idle)
	}
	l.stopBy.Store(time.Now().Add(patience).UnixNano())
	l.stopping.Store(true)
	l.extend()
}

// extend lets Accept wait a little longer. A new deadline also undoes one that
// has passed, with which Accept would not even look at the queue.
func (l *listener) extend() {
	until := min(time.Now().Add(quiet).UnixNano(), l.stopBy.Load())
	_ = l.Listener.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Unix(0, until))
}
