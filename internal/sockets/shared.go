package sockets

import "iter"

// single is one socket for all slots. It is open while a slot is.
type single struct {
	set      *Set
	listener Listener // of TCP: Port is the actual one
	end      endpoint // of TCP
	sock     socket
	slots    slots
}

func (c *single) file(slot int) int {
	if !c.slots.has(slot) {
		return -1
	}
	return c.sock.fd
}

func (c *single) actual(int) (mode string, port int) { return ModeShared, c.end.port }

func (c *single) reset(int) (changed []string, err error) {
	if c.sock.fd < 0 || !c.slots.vacant(c.set) {
		return nil, nil
	}
	changed, _, err = c.sock.reset(c.set, c.listener, -1, c.end)
	return changed, err
}

// leaving is nothing of one slot's own: the others serve what it leaves.
func (c *single) leaving(int) (end endpoint, own bool) { return c.end, false }

// all yields the socket as slot 0's, if it is open.
func (c *single) all() iter.Seq2[int, *socket] {
	return func(yield func(int, *socket) bool) {
		if c.sock.fd >= 0 {
			yield(0, &c.sock)
		}
	}
}

func (c *single) giveBack() []*passed {
	if !c.sock.held || c.sock.fd < 0 {
		return nil
	}
	back := []*passed{passedOf(&c.sock, c.listener, c.end, 0)}
	c.sock = socket{fd: -1}
	return back
}

// shared is one of TCP, bound so that nobody can join it.
type shared struct{ single }

// slots says which slots use the one socket.
type slots []bool

func (s *slots) set(slot int, open bool) {
	*s = grow(*s, slot, func() bool { return false })
	(*s)[slot] = open
}

func (s slots) has(slot int) bool { return slot < len(s) && s[slot] }

// first is the one that the socket is counted for, -1 where none is open.
func (s slots) first() int {
	for slot, open := range s {
		if open {
			return slot
		}
	}
	return -1
}

// vacant reports whether no slot that uses the socket has a worker.
func (s slots) vacant(of *Set) bool {
	for slot, open := range s {
		if open && !of.vacant.has(slot) {
			return false
		}
	}
	return true
}

func newShared(s *Set, l Listener, end endpoint) *shared {
	c := &shared{single{set: s, listener: l, end: end, sock: socket{fd: -1}}}
	c.listener.Port = end.port
	return c
}

func (c *shared) adopt(given []*passed) (err error) {
	c.sock, err = given[0].adopted(c.listener)
	return err
}

func (c *shared) open(slot int) (err error) {
	if c.sock.fd < 0 {
		if c.sock, err = c.end.listenAlone(c.listener); err != nil {
			return err
		}
		if c.end.port, err = boundPort(c.sock.fd); err != nil {
			c.sock.close()
			return c.end.explain(c.listener, err)
		}
		c.listener.Port = c.end.port
	}
	c.sock.parked = false
	c.slots.set(slot, true)
	return nil
}

func (c *shared) configure(l Listener) {
	l.Port = c.end.port
	c.sock.reconfigure(c.set, c.listener, l, "")
	c.listener = l
}

func (c *shared) mend(int) (undone string, err error) {
	undone, _, err = c.sock.mend(c.set, c.listener, -1)
	return undone, err
}

func (c *shared) queue(slot int) (waiting int, listens bool) {
	if slot != c.slots.first() {
		return 0, false
	}
	return c.sock.waiting()
}

// closeSlot closes the socket with the last slot: then nobody will ever serve
// what is queued.
func (c *shared) closeSlot(slot int) error {
	if !c.slots.has(slot) {
		return nil
	}
	c.slots.set(slot, false)
	switch {
	case c.slots.first() >= 0:
		return nil
	case c.sock.held:
		c.sock.parked = true
		return c.sock.flushQueued(c.listener, slot)
	}
	c.set.forget(&c.sock)
	c.sock.end()
	return nil
}

func (c *shared) finish() {
	c.set.forget(&c.sock)
	c.sock.close()
}

func (c *shared) close() { c.sock.close() }
