package worker

import (
	"container/list"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// A listener that stops accepts what is queued until nothing came for
	// acceptIdleTimeout, for stopTimeout at most.
	acceptIdleTimeout = 10 * time.Millisecond
	stopTimeout       = 500 * time.Millisecond
)

// listener counts and keeps its connections. No request takes its lock.
type listener struct {
	net.Listener
	worker *Worker
	served atomic.Bool // by Worker.Serve

	mu    sync.Mutex
	conns list.List     // of *conn, oldest first
	over  bool          // drained: no other worker's connection is listed any more
	fewer chan struct{} // a token when the last connection goes, or one makes room for another to move
	onWay []*conn       // idle ones that leave: see moveIdle
	next  *list.Element // of conns: where moveIdle goes on; nil: it was at the end

	deferred   atomic.Bool  // see AwaitData
	emptyPolls int          // see hasSilentClients
	queued     atomic.Int64 // see inheritKeepAlive

	name     string        // of the socket that the master passed; "": none
	other    bool          // it is none of those that the master passed
	movable  bool          // see Movable
	idle     time.Duration // see Movable
	arrivals arrivals      // connections that another worker has handed over
	accepted chan struct{} // closed when Accept takes nothing from the socket any more

	endAccepts func() // closes accepted

	answer func(net.Conn) // answers connections over the worker's limit; nil: there is no limit

	stopping atomic.Bool
	stopBy   atomic.Int64 // Unix nanoseconds
}

// track wraps a listener, unless it is one of w's already. name is that of its socket, if it
// was passed.
func (w *Worker) track(ln net.Listener, name string) *listener {
	if l, ok := ln.(*listener); ok && l.worker == w {
		return l
	}
	l := &listener{Listener: ln, worker: w, name: name, fewer: make(chan struct{}, 1), accepted: make(chan struct{})}
	l.endAccepts = sync.OnceFunc(func() { close(l.accepted) })
	l.arrivals.more.L = &l.arrivals.mu
	l.other = len(w.passed) > 0 && !slices.Contains(w.passed, endpoint(ln.Addr()))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listeners = append(w.listeners, l)
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
		if l.arrivals.some.Load() {
			if nc := l.arrived(); nc != nil {
				return nc, nil
			}
		}
		if l.stopping.Load() {
			l.extend()
		}
		nc, err := l.Listener.Accept()
		switch {
		case err == nil:
			l.keepAlive(nc)
			if kept := l.keep(nc); kept != nil {
				return kept, nil
			}
		case errors.Is(err, os.ErrDeadlineExceeded) && l.arrivals.some.Load():
		case l.stopping.Load() && errors.Is(err, os.ErrDeadlineExceeded):
			if !l.hasSilentClients() {
				l.Close()
				return l.awaitArrival()
			}
		case l.movable && errors.Is(err, net.ErrClosed) && l.worker.drain.active(): // else the program has closed it
			return l.awaitArrival()
		default:
			return nil, err
		}
	}
}

// keep counts a connection and lists it. A connection that an inner
// listener has counted already (this one wraps it, for TLS perhaps) moves to this
// list, which is drained. keep returns nil if the connection is refused: the worker is
// at its limit.
func (l *listener) keep(nc net.Conn) net.Conn {
	c := tracked(nc)
	counted := c != nil
	if counted {
		c.listener.remove(c)
	} else {
		raw := nc
		c, nc = wrap(raw)
		c.raw, c.accepted = raw, time.Now()
	}
	c.served.Store(l.served.Load())
	if !l.admit(counted) {
		l.refuse(c, nc)
		return nil
	}
	l.add(c)
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
	if l.other && !counted {
		page.Elsewhere()
	}
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
	l.add(c)
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

// openConns returns the connections that may be shed, oldest first.
func (w *Worker) openConns() (open []*conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.listeners {
		open = append(open, l.pick(func(c *conn) bool { return !c.refused && !c.closed.Load() })...)
	}
	slices.SortStableFunc(open, func(a, b *conn) int { return a.accepted.Compare(b.accepted) })
	return open
}

func (l *listener) add(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.listener, c.element = l, l.conns.PushBack(c)
}

// addMoved lists a connection of another worker's, in use until it is served: a drain waits
// for it from now on. It reports false if the drain is over.
func (l *listener) addMoved(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	c.phase.Store(int32(Busy))
	c.listener, c.element = l, l.conns.PushBack(c)
	return true
}

// endIfEmpty ends the drain if no connection is listed, and reports whether it has.
func (l *listener) endIfEmpty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = l.conns.Len() == 0
	return l.over
}

func (l *listener) remove(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == c.element {
		l.next = l.next.Next()
	}
	l.conns.Remove(c.element)
	if l.conns.Len() == 0 || l.worker.handing() {
		select {
		case l.fewer <- struct{}{}:
		default:
		}
	}
}

// pick returns the connections that match, oldest first.
func (l *listener) pick(match func(*conn) bool) []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	var picked []*conn
	for e := l.conns.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conn); match(c) {
			picked = append(picked, c)
		}
	}
	return picked
}

// expire closes some of the idle connections, and repeats that for those that it
// has closed before.
func (l *listener) expire(p plan, now time.Time) {
	again, idle := l.pick(func(c *conn) bool { return c.load() == closing }), l.pick((*conn).idle)
	for _, c := range append(again, idle[:p.quota(len(idle), now)]...) {
		c.expire(closing)
	}
}

// cut closes all connections and returns how many of them were in use.
func (l *listener) cut() int {
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	used := 0
	for _, c := range l.pick(func(*conn) bool { return true }) {
		if p := c.load(); p == Busy || p == Hijacked {
			used++
		}
		c.cut()
	}
	return used
}
