package worker

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// set holds one listener's connections. Its lock is taken when a connection
// comes and goes and by a drain or a shed, never per request.
type set struct {
	mu    sync.Mutex
	first *conn
	last  *conn
	n     int
	empty chan struct{} // one token, whenever the last connection goes

	served atomic.Bool // by Worker.Serve
	all    *sets
}

func newSet(all *sets) set { return set{empty: make(chan struct{}, 1), all: all} }

// sets are those of a worker's sets that have connections.
type sets struct {
	mu sync.Mutex
	in map[*set]struct{}
}

// put is called with s's lock, when its first connection comes.
func (a *sets) put(s *set) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.in == nil {
		a.in = map[*set]struct{}{}
	}
	a.in[s] = struct{}{}
}

// drop is called with s's lock, when its last connection has gone.
func (a *sets) drop(s *set) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.in, s)
}

// open returns the worker's open connections, which may be shed.
func (w *Worker) open() []*member {
	w.all.mu.Lock()
	all := slices.Collect(maps.Keys(w.all.in))
	w.all.mu.Unlock()
	var open []*member
	for _, s := range all {
		unserved := !s.served.Load()
		for _, c := range s.pick(func(c *conn) bool { return !c.refused && !c.closed.Load() }) {
			open = append(open, &member{conn: c, unserved: unserved})
		}
	}
	return open
}

func (s *set) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.set = s
	c.prev = s.last
	if s.last != nil {
		s.last.next = c
	} else {
		s.first = c
	}
	s.last = c
	if s.n++; s.n == 1 {
		s.all.put(s)
	}
}

func (s *set) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		s.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		s.last = c.prev
	}
	c.prev, c.next = nil, nil
	s.n--
	if s.n == 0 {
		s.all.drop(s)
		select {
		case s.empty <- struct{}{}:
		default:
		}
	}
}

func (s *set) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// pick returns the connections that match, oldest first.
func (s *set) pick(match func(*conn) bool) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var picked []*conn
	for c := s.first; c != nil; c = c.next {
		if match(c) {
			picked = append(picked, c)
		}
	}
	return picked
}

// expire closes a share of the idle connections, and repeats itself to those
// that it has told before.
func (s *set) expire(share func(idle int) int) {
	for _, c := range s.pick(func(c *conn) bool { return c.load() == closing }) {
		c.expire()
	}
	idle := s.pick((*conn).idle)
	for _, c := range idle[:share(len(idle))] {
		c.expire()
	}
}

// arrival is how long after it was accepted a connection that has brought no
// request yet is no idle one: its client may be about to speak, or has spoken and
// its server has not come to read it. A drain accepts until it closes its idle
// connections, so there are such ones at that very moment.
// The same goes for a multiplexed one that has just been heard.
const arrival = time.Second

// idle reports whether nothing is lost when the connection is closed now.
func (c *conn) idle() bool {
	p := c.load()
	arriving := (p == fresh || p == Expecting) && time.Since(c.accepted) < arrival
	heard := c.streams.Load() && time.Since(c.accepted)-time.Duration(c.heard.Load()) < arrival
	return p.idle() && !arriving && !heard
}

// cut closes all that is left, and returns how many of them were in use.
func (s *set) cut() int {
	used := 0
	for _, c := range s.pick(func(*conn) bool { return true }) {
		if p := c.load(); p == Busy || p == Hijacked {
			used++
		}
		c.cut()
	}
	return used
}
