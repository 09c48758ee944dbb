package worker

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/forkd/forkd/ipc"
)

const (
	shedInterval   = 250 * time.Millisecond // between two steps of a shed
	programTime    = time.Second            // for the program to close connections itself
	shedSettleTime = 5 * time.Second        // after the last portion, what closes by itself still counts
)

// shedder closes the longest-lived connections of a worker. Each step marks the n
// oldest, n = due - closed - told, and removes marks that are no longer needed.
type shedder struct {
	mu       sync.Mutex
	running  bool
	draining bool // only the program is told
	requests []shedRequest
	total    int       // of their connections
	conns    []*conn   // those that were open at the last request, oldest first
	closed   int       // how many of them have closed
	asked    int       // how many the program was asked for
	until    time.Time // after this only marked connections are kept in conns

	onShed  func(n int)
	pending int // connections to call onShed for
	calling bool
}

// shedRequest is n connections to close in equal portions, one in each second, all
// at the same random moment of it.
type shedRequest struct {
	n, portions int
	first       time.Time
	interval    time.Duration
	close, cut  time.Duration // from its portion until a connection is closed, a hijacked one cut
}

func newShedRequest(now time.Time, n int, over time.Duration, random float64) shedRequest {
	portions := max(1, min(n, int(over/time.Second)))
	interval := max(1, over/time.Duration(portions))
	return shedRequest{n: n, portions: portions, first: now.Add(time.Duration(random * float64(interval))), interval: interval}
}

// due returns how many connections are in the portions up to t.
func (r shedRequest) due(t time.Time) int {
	since := t.Sub(r.first)
	if since < 0 {
		return 0
	}
	return r.n * min(r.portions, 1+int(since/r.interval)) / r.portions
}

// startShed follows the master's request. During a drain (drain.shed_per_second)
// only the program is told: the drain closes connections in its own way.
func (w *Worker) startShed(m ipc.Shed) {
	s := &w.shedder
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh(w.drain.active())
	s.closed = min(s.closed, s.total) // a surplus does not count for this request
	now, open := time.Now(), w.openConns()
	n, random := min(m.Count, len(open)-s.total+s.closed), rand.Float64()
	if s.draining {
		n, random = min(m.Count, int(w.Counters().Open)), 0
	}
	if n <= 0 {
		return
	}
	r := newShedRequest(now, n, m.Over, random)
	if !s.draining {
		s.conns = open
		if s.onShed != nil {
			r.close, r.cut = programTime, m.Over+programTime
		}
	}
	s.requests = append(s.requests, r)
	s.total += n
	if until := now.Add(m.Over + r.cut + shedSettleTime); until.After(s.until) {
		s.until = until
	}
	if !s.running {
		s.running = true
		w.drain.flags.Or(flagShedding)
		go w.shed()
	}
}

// refresh counts the connections that have closed. A drain ends all requests from
// before it.
func (s *shedder) refresh(draining bool) {
	if draining && !s.draining {
		s.clear()
		s.draining, s.conns, s.pending = true, nil, 0
	}
	before := len(s.conns)
	s.conns = slices.DeleteFunc(s.conns, func(c *conn) bool { return c.closed.Load() })
	s.closed += before - len(s.conns)
}

func (s *shedder) clear() { s.requests, s.total, s.closed, s.asked = nil, 0, 0, 0 }

// shed is the goroutine that works until all requests are done.
func (w *Worker) shed() {
	tick := time.NewTicker(shedInterval)
	defer tick.Stop()
	begun := w.drain.begun
	for !w.shedStep(time.Now()) {
		select {
		case <-tick.C:
		case <-begun:
			begun = nil
		}
	}
}

// shedStep does what is due and reports whether all is done.
func (w *Worker) shedStep(now time.Time) (done bool) {
	s := &w.shedder
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh(w.drain.active())
	var asked, due, cut int
	for _, r := range s.requests {
		asked += r.due(now)
		due += r.due(now.Add(-r.close))
		cut += r.due(now.Add(-r.cut))
	}
	s.callProgram(min(asked-s.asked, asked-s.closed))
	s.asked = asked
	s.mark(now, due-s.closed, cut-s.closed)
	if s.closed >= s.total || now.After(s.until) {
		s.conns = slices.DeleteFunc(s.conns, func(c *conn) bool { return c.mark.Load() == unmarked })
	}
	if len(s.conns) > 0 || asked < s.total && s.closed < s.total {
		return false
	}
	s.clear()
	s.running = false
	w.drain.flags.And(^flagShedding)
	return true
}

// mark marks the oldest connections: due of them, less those that were told. It closes
// marked ones that are idle, and hijacked ones among the first cut.
func (s *shedder) mark(now time.Time, due, cut int) {
	var rest []*conn
	for _, c := range s.conns {
		if c.mark.Load() != told || c.programsOwn() {
			rest = append(rest, c)
			continue
		}
		due, cut = due-1, cut-1
		c.closeIdle(now)
	}
	for i, c := range rest {
		if i >= due {
			c.mark.CompareAndSwap(marked, unmarked)
			continue
		}
		c.mark.CompareAndSwap(unmarked, marked)
		if !c.programsOwn() {
			c.closeIdle(now)
		} else if i < cut {
			c.cut()
		}
	}
}

// callProgram has onShed called for n more connections, without waiting for it. The
// caller holds the lock.
func (s *shedder) callProgram(n int) {
	if n <= 0 || s.onShed == nil {
		return
	}
	s.pending += n
	if s.calling {
		return
	}
	s.calling = true
	go func() {
		s.mu.Lock()
		for s.pending > 0 && s.onShed != nil {
			n, f := s.pending, s.onShed
			s.pending = 0
			s.mu.Unlock()
			f(n)
			s.mu.Lock()
		}
		s.calling = false
		s.mu.Unlock()
	}()
}
