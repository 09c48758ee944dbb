package worker

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

const (
	// A listener that stops accepts what is queued until nothing came for
	// acceptIdleTimeout, for stopTimeout at most.
	acceptIdleTimeout = 10 * time.Millisecond
	stopTimeout       = 500 * time.Millisecond
)

// listener counts its connections and keeps them in its set.
type listener struct {
	net.Listener
	worker *Worker
	set    set
	served atomic.Bool // by Worker.Serve

	deferred   atomic.Bool // see AwaitData
	emptyPolls int         // see hasSilentClients

	answer func(net.Conn) // answers connections over the worker's limit; nil: there is no limit

	stopping atomic.Bool
	stopBy   atomic.Int64 // Unix nanoseconds
}

// track wraps a listener, unless it is one of w's already.
func (w *Worker) track(ln net.Listener) *listener {
	if l, ok := ln.(*listener); ok && l.worker == w {
		return l
	}
	l := &listener{Listener: ln, worker: w, set: set{empty: make(chan struct{}, 1)}}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sets = append(w.sets, &l.set)
	return l
}

// Plain reports whether a listener's connections are the kernel's, with no TLS or
// other protocol around them.
func Plain(ln net.Listener) bool {
	switch l := ln.(type) {
	case *net.TCPListener, *net.UnixListener:
		return true
	case *listener:
		return Plain(l.Listener)
	}
	return false
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	if l.served.Load() {
		l.worker.Ready()
	}
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
		case !l.hasSilentClients():
			l.Close()
			return nil, net.ErrClosed
		}
	}
}

// keep counts a connection and adds it to the set. A connection that an inner
// listener has counted already (this one wraps it, for TLS perhaps) moves to this
// set, which drains it. keep returns nil if the connection is refused: the worker is
// at its limit.
func (l *listener) keep(nc net.Conn) net.Conn {
	c := tracked(nc)
	counted := c != nil
	if counted {
		c.set.remove(c)
	} else {
		raw := nc
		c, nc = wrap(raw)
		c.raw, c.worker, c.accepted = raw, l.worker, time.Now()
	}
	c.served.Store(l.served.Load())
	if !l.admit(counted) {
		l.refuse(c, nc)
		return nil
	}
	l.set.add(c)
	return nc
}

// stop ends accepting: at once if another process serves the socket from now on,
// and gets what is queued. If none does (last), what is queued is accepted first.
func (l *listener) stop(last bool, idle time.Duration) {
	if _, ok := l.Listener.(interface{ SetDeadline(time.Time) error }); !ok || !last {
		l.Close()
		return
	}
	timeout := stopTimeout
	if l.deferred.Load() {
		l.deferAccept(0)
		timeout = max(timeout, idle)
	}
	l.stopBy.Store(time.Now().Add(timeout).UnixNano())
	l.stopping.Store(true)
	l.extend()
}

// extend lets Accept wait a little longer. With a deadline that has passed, Accept
// would not even look at the queue.
func (l *listener) extend() {
	until := min(time.Now().Add(acceptIdleTimeout).UnixNano(), l.stopBy.Load())
	_ = l.Listener.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Unix(0, until))
}

// maxRefusals is how many refused connections are answered at a time. More are
// closed unanswered.
const maxRefusals = 256

// Refuse sets the function that answers new connections of ln while this worker is
// at its limit (FORKD_MAX_CONNECTIONS: its part of redis.max_connections_per_host).
// Open connections of all its listeners count, hijacked ones too. Serve packages call
// it with the listener that they serve, before its first Accept. Other listeners
// refuse nothing, and neither does a worker without a limit.
//
// answer runs on a goroutine of its own, for at most 256 connections at a time: more
// are closed unanswered. It must end soon, whatever the client does; then the
// connection is closed. A drain waits for it.
func Refuse(ln net.Listener, answer func(net.Conn)) {
	if l, ok := ln.(*listener); ok && l.worker.limit > 0 {
		l.answer = answer
	}
}

// connLimit is the limit now: the master writes a new one to the page when the
// number of slots changes.
func (w *Worker) connLimit() int64 {
	if n := w.page.Limit(); n > 0 {
		return n
	}
	return w.limit
}

// admit counts a new connection, or one that an inner listener has counted and could
// not answer, and reports whether it may stay.
func (l *listener) admit(counted bool) bool {
	page := l.worker.page
	switch {
	case l.answer == nil && !counted:
		page.Opened()
	case l.answer != nil && counted:
		return !page.Expel(l.worker.connLimit())
	case l.answer != nil:
		return page.Admit(l.worker.connLimit())
	}
	return true
}

// refuse has a connection over the limit answered and closed. It does not block. A
// drain takes the connection for neither idle nor in use.
func (l *listener) refuse(c *conn, nc net.Conn) {
	c.refused = true
	c.phase.Store(int32(lingering))
	l.set.add(c)
	select {
	case l.worker.refusals <- struct{}{}:
	default:
		nc.Close()
		return
	}
	go func() {
		defer func() {
			_ = recover() // from the program's TLS callbacks: net/http too closes the connection only
			nc.Close()
			<-l.worker.refusals
		}()
		l.answer(nc)
	}()
}
