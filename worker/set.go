package worker

import (
	"sync"
	"time"
)

// set holds one listener's connections. Its lock is taken when a connection
// comes and goes and by a drain, never per request.
type set struct {
	mu    sync.Mutex
	first *conn
	last  *conn
	n     int
	empty chan struct{} // one token, whenever the last connection goes
}

func newSet() set { return set{empty: make(chan struct{}, 1)} }

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
	s.n++
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
const arrival = time.Second

// idle reports whether nothing is lost when the connection is closed now.
func (c *conn) idle() bool {
	p := c.load()
	arriving := (p == fresh || p == Expecting) && time.Since(c.accepted) < arrival
	return p.idle() && !arriving
}

// cut closes all that is left, and returns how many of them were in use.
func (s *set) cut() int {
	used := 0
	for _, c := range s.pick(func(*conn) bool { return true }) {
		if p := c.load(); p == Busy || p == Hijacked {
			used++
		}
		c.closed.Store(true)
		_ = c.end()
	}
	return used
}
