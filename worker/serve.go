package worker

import (
	"fmt"
	"net"
	"time"

	"github.com/forkd/forkd/ipc"
)

// step is how often a drain looks for idle connections to close.
const step = 25 * time.Millisecond

// Serve is a worker's life on one listener: it calls serve, says Ready when serve
// begins to accept, and when the worker is to drain stops accepting and waits
// until every connection is closed. Then it returns nil. At the deadline it cuts
// what is left and says how many were in use. When serve ends by itself, Serve
// returns its error.
//
// serve must serve the listener it is given, which is ln and counts; when that
// is closed, serve returns. It should call Request per request, let responses
// close their connections while that is true (RequestOn, for a shed to be obeyed
// on connections in use), and Mark what connections are at.
// httpserve and fasthttpserve do; a server for another protocol may.
func (w *Worker) Serve(ln net.Listener, serve func(net.Listener) error) error {
	l := w.track(ln)
	l.accepting = w.Ready
	l.set.served.Store(true)
	served := make(chan error, 1)
	go func() { served <- serve(l) }()
	select {
	case err := <-served:
		l.Close()
		return err
	case <-w.Draining():
	}
	l.stop(!succeeded(w.Reason()), w.orders.current().idle)
	return l.drain(served)
}

// succeeded reports whether another process serves the same socket when a worker
// drains for this reason.
func succeeded(reason string) bool {
	return reason == ipc.ReasonRoll || reason == ipc.ReasonRecycle
}

// drain waits for the end of the accept loop and then of the connections.
func (l *listener) drain(served <-chan error) error {
	for {
		o := l.worker.orders.current()
		p := planned(o)
		now := time.Now()
		switch {
		case served == nil && l.set.count() == 0:
			return nil
		case !now.Before(o.deadline):
			l.Close()
			if n := l.set.cut(); n > 0 {
				return fmt.Errorf("cannot finish by the deadline of the drain: cut %d connections in use", n)
			}
			return nil
		case !now.Before(p.from):
			l.set.expire(func(idle int) int { return p.share(idle, now) })
		}
		wake := time.NewTimer(p.next(now, o.deadline).Sub(now))
		select {
		case <-served:
			served = nil
		case <-l.set.empty:
		case <-o.changed:
		case <-wake.C:
		}
		wake.Stop()
	}
}

// plan is when a drain closes idle connections: evenly from from to until, and
// after that each as soon as it is idle.
type plan struct{ from, until time.Time }

// planned is an order's plan: the last tenth of its time, so that a client which
// speaks at all gets its answer, with Connection: close, before. What is closed
// last has half of that, at most lingerTime, to linger. A stop closes earlier,
// since nobody comes after: all of them, when they had their idle time.
func planned(o order) plan {
	tenth := o.deadline.Sub(o.began) / 10
	p := plan{
		from:  o.deadline.Add(-tenth),
		until: o.deadline.Add(-min(lingerTime, tenth/2)),
	}
	if early := o.began.Add(o.idle); o.reason == ipc.ReasonStop && early.Before(p.from) {
		return plan{from: early, until: early}
	}
	return p
}

// share is how many of the connections that are idle now this step closes.
func (p plan) share(idle int, now time.Time) int {
	left := p.until.Sub(now)
	if left <= 0 {
		return idle
	}
	steps := int(left/step) + 1
	return (idle + steps - 1) / steps
}

// next is when to look again.
func (p plan) next(now, deadline time.Time) time.Time {
	at := p.from
	if !now.Before(p.from) {
		at = now.Add(step)
	}
	if deadline.Before(at) {
		return deadline
	}
	return at
}
