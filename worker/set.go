package worker

import "sync"

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
func (s *set) pick(match func(Phase) bool) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var picked []*conn
	for c := s.first; c != nil; c = c.next {
		if match(c.load()) {
			picked = append(picked, c)
		}
	}
	return picked
}

// expire closes a share of the idle connections, and repeats itself to those
// that it has told before.
func (s *set) expire(share func(idle int) int) {
	for _, c := range s.pick(func(p Phase) bool { return p == closing }) {
		c.expire()
	}
	idle := s.pick(Phase.idle)
	for _, c := range idle[:share(len(idle))] {
		c.expire()
	}
}

// cut closes all that is left, and returns how many of them were in use.
func (s *set) cut() int {
	used := 0
	for _, c := range s.pick(func(Phase) bool { return true }) {
		if p := c.load(); p == Busy || p == Hijacked {
			used++
		}
		c.closed.Store(true)
		_ = c.end()
	}
	return used
}
