package worker

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forkd/forkd/ipc"
)

// defaultDrainTimeout is the drain time if no master has set a deadline: the
// default of drain.timeout.
const defaultDrainTimeout = 30 * time.Second

// Bits of drainState.flags.
const (
	flagDraining uint32 = 1 << iota
	flagShedding
	flagHanding // there is a successor that takes connections
)

// drain is one request to drain.
type drain struct {
	reason   string // "": none
	began    time.Time
	deadline time.Time
	idle     time.Duration
}

// drainState is whether the worker drains. A later request replaces an earlier
// one: a worker that drains for a roll may be told that the whole app stops.
type drainState struct {
	flags    atomic.Uint32 // read for every request
	begun    chan struct{} // closed with the first drain
	messages chan struct{} // a token per drain message, for the signal that follows it

	mu      sync.Mutex
	current drain
}

func newDrainState() drainState {
	return drainState{begun: make(chan struct{}), messages: make(chan struct{}, 4)}
}

func (s *drainState) active() bool { return s.flags.Load()&flagDraining != 0 }

func (s *drainState) get() drain {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// onMessage follows the master's drain message.
func (s *drainState) onMessage(m ipc.Drain) {
	s.mu.Lock()
	s.set(m)
	s.mu.Unlock()
	select {
	case s.messages <- struct{}{}:
	default:
	}
}

// begin starts a drain without a message, unless there is one.
func (s *drainState) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.reason == "" {
		s.set(ipc.Drain{
			Reason:   ipc.ReasonStop,
			Deadline: time.Now().Add(defaultDrainTimeout),
			Idle:     ipc.DefaultIdle,
		})
	}
}

// set begins or changes the drain. The deadline comes as wall clock time and is
// kept as monotonic time: it does not move when the clock is set.
func (s *drainState) set(m ipc.Drain) {
	now, first := time.Now(), s.current.reason == ""
	s.current = drain{
		reason:   cmp.Or(m.Reason, ipc.ReasonStop),
		began:    now,
		deadline: now.Add(time.Until(m.Deadline)),
		idle:     m.Idle,
	}
	if first {
		s.flags.Or(flagDraining)
		close(s.begun)
	}
}

// drainInterval is how often a drain looks for idle connections to close, and at what
// the master wants now.
const drainInterval = 25 * time.Millisecond

// Serve serves one listener: it calls serve, and Ready when serve begins to accept.
// When the worker is to drain, it stops accepting, waits until every connection is
// closed, and returns nil. At the deadline it cuts the remaining connections; the
// error says how many were in use. If serve ends by itself, Serve returns its error.
//
// serve must serve the listener that it is given, which wraps ln, and return when
// that is closed. It should call RequestOn for each request, let the response close
// the connection if that is true, and Mark the phases of connections, as httpserve
// and fasthttpserve do.
func (w *Worker) Serve(ln net.Listener, serve func(net.Listener) error) error {
	l := w.track(ln, "")
	l.served.Store(true)
	served := make(chan error, 1)
	go func() { served <- serve(l) }()
	select {
	case err := <-served:
		l.Close()
		return err
	case <-w.Draining():
	}
	d := w.drain.get()
	l.stop(d.reason != ipc.ReasonRoll && d.reason != ipc.ReasonRecycle, d.idle)
	defer l.endArrivals()
	return l.drain(served)
}

// drain waits for the end of the accept loop and then of the connections. Idle ones are
// handed to the successor; where there is none, or they can't be, they are closed.
func (l *listener) drain(served <-chan error) error {
	accepted := l.accepted
	var looked time.Time
	for {
		d := l.worker.drain.get()
		p := planFor(d)
		now := time.Now()
		switch {
		case (served == nil || accepted == nil) && l.endIfEmpty():
			l.endArrivals()
			if served != nil {
				<-served
			}
			return nil
		case !now.Before(d.deadline):
			l.Close()
			if n := l.cut(); n > 0 {
				return fmt.Errorf("cannot finish by the deadline of the drain: cut %d connections in use", n)
			}
			return nil
		case !now.Before(p.from):
			l.expire(p, now)
		}
		if l.worker.handing() {
			anew := now.Sub(looked) >= drainInterval
			if anew {
				looked = now
			}
			l.moveIdle(anew)
		}
		select {
		case <-served:
			served = nil
		case <-accepted:
			accepted = nil
		case <-l.fewer:
		case <-time.After(min(drainInterval, d.deadline.Sub(now))):
		}
	}
}

// moveIdle has idle connections leave, as many as may be on their way. It goes on in the
// list where it was; after the end of it only if it is to begin anew.
func (l *listener) moveIdle(anew bool) {
	l.mu.Lock()
	l.onWay = slices.DeleteFunc(l.onWay, func(c *conn) bool {
		return c.ended.Load() || !c.going.Load() && c.load() != moving
	})
	if l.next == nil && anew {
		l.next = l.conns.Front()
	}
	for ; l.next != nil && len(l.onWay) < maxMoving; l.next = l.next.Next() {
		if c := l.next.Value.(*conn); c.load().idle() && c.mayMove() {
			l.onWay = append(l.onWay, c)
		}
	}
	leaving := slices.Clone(l.onWay)
	l.mu.Unlock()
	for _, c := range leaving {
		if !c.going.Load() {
			c.expire(moving)
		}
	}
}

// plan is when a drain closes idle connections: evenly between from and until, and
// later each as soon as it is idle.
type plan struct{ from, until time.Time }

// planFor closes in the last tenth of the drain, so that most clients get a response
// with Connection: close first. The last ones have half of that, at most
// lingerTimeout, to linger. A stop closes all after drain.idle: no successor takes
// their clients.
func planFor(d drain) plan {
	tenth := d.deadline.Sub(d.began) / 10
	p := plan{
		from:  d.deadline.Add(-tenth),
		until: d.deadline.Add(-min(lingerTimeout, tenth/2)),
	}
	if early := d.began.Add(d.idle); d.reason == ipc.ReasonStop && early.Before(p.from) {
		return plan{from: early, until: early}
	}
	return p
}

// quota is how many of the idle connections to close now.
func (p plan) quota(idle int, now time.Time) int {
	left := p.until.Sub(now)
	if left <= 0 {
		return idle
	}
	steps := int(left/drainInterval) + 1
	return (idle + steps - 1) / steps
}
