package worker

import (
	"container/list"
	"slices"
	"sync"
)

// set is the connections of one listener, oldest first. No request takes its lock.
type set struct {
	mu    sync.Mutex
	conns list.List     // of *conn
	empty chan struct{} // one token whenever the last connection closes
}

// openConns returns the connections that may be shed, oldest first.
func (w *Worker) openConns() (open []*conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sets {
		open = append(open, s.pick(func(c *conn) bool { return !c.refused && !c.closed.Load() })...)
	}
	slices.SortStableFunc(open, func(a, b *conn) int { return a.accepted.Compare(b.accepted) })
	return open
}

func (s *set) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.set, c.element = s, s.conns.PushBack(c)
}

func (s *set) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns.Remove(c.element)
	if s.conns.Len() == 0 {
		select {
		case s.empty <- struct{}{}:
		default:
		}
	}
}

func (s *set) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns.Len()
}

// pick returns the connections that match, oldest first.
func (s *set) pick(match func(*conn) bool) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var picked []*conn
	for e := s.conns.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conn); match(c) {
			picked = append(picked, c)
		}
	}
	return picked
}

// expire closes some of the idle connections, and repeats that for those that it
// has closed before.
func (s *set) expire(quota func(idle int) int) {
	again, idle := s.pick(func(c *conn) bool { return c.load() == closing }), s.pick((*conn).idle)
	for _, c := range append(again, idle[:quota(len(idle))]...) {
		c.expire()
	}
}

// cut closes all connections and returns how many of them were in use.
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
