package sockets

import (
	"cmp"
	"fmt"
	"iter"
)

// each is one listener's sockets on a port for each slot. Whoever connects picks
// the slot: nothing is steered.
type each struct {
	set      *Set
	listener Listener
	end      endpoint  // slot 0's
	members  []*socket // by slot
}

func newEach(s *Set, l Listener, end endpoint) *each {
	return &each{set: s, listener: l, end: end}
}

// at is where the slot's socket is bound.
func (e *each) at(slot int) endpoint {
	end := e.end
	end.port += slot
	return end
}

func (e *each) adopt(given []*passed) error {
	for _, p := range given {
		sock, err := p.adopted(e.listener)
		if err != nil {
			return err
		}
		sock.parked = true
		e.members = grow(e.members, p.slot, noSocket)
		e.members[p.slot] = &sock
	}
	return nil
}

func (e *each) open(slot int) error {
	e.members = grow(e.members, slot, noSocket)
	m := e.members[slot]
	if m.fd >= 0 {
		m.parked = false
		return nil
	}
	end, l := e.at(slot), e.listener
	l.Port = end.port
	if end.port > maxPort {
		return fmt.Errorf("cannot listen for slot %d of %s: its port would be %d, and 65535 is the last: start lower", slot, e.listener, end.port)
	}
	var err error
	*m, err = end.listenAlone(l)
	return err
}

func (e *each) file(slot int) int {
	if m := at(e.members, slot); !m.parked {
		return m.fd
	}
	return -1
}

func (e *each) actual(slot int) (mode string, port int) { return ModeEach, e.at(slot).port }

func (e *each) configure(l Listener) {
	for slot, m := range e.all() {
		m.reconfigure(e.set, e.listener, l, ofSlot(slot))
	}
	e.listener = l
}

func (e *each) mend(slot int) (undone string, err error) {
	undone, _, err = at(e.members, slot).mend(e.set, e.listener, slot)
	return undone, err
}

func (e *each) reset(slot int) (changed []string, err error) {
	changed, replace, err := at(e.members, slot).reset(e.set, e.listener, slot, e.end)
	if replace {
		err = cmp.Or(err, e.closeSlot(slot))
		err = cmp.Or(err, e.open(slot))
	}
	return changed, err
}

func (e *each) queue(slot int) (waiting int, listens bool) {
	return at(e.members, slot).waiting()
}

// closeSlot frees the slot's port, where no socket unit of systemd's has it.
func (e *each) closeSlot(slot int) error {
	m := at(e.members, slot)
	if m.held {
		m.parked = true
		return m.flushQueued(e.listener, slot)
	}
	e.set.forget(m)
	m.end()
	return nil
}

func (e *each) leaving(slot int) (end endpoint, own bool) {
	return e.at(slot), at(e.members, slot).fd >= 0
}

func (e *each) all() iter.Seq2[int, *socket] { return openOf(e.members) }

func (e *each) finish() {
	for _, m := range e.all() {
		e.set.forget(m)
		m.close()
	}
}

func (e *each) giveBack() []*passed {
	var back []*passed
	for slot, m := range e.all() {
		if m.held {
			back = append(back, passedOf(m, e.listener, e.at(slot), slot))
			e.members[slot] = noSocket()
		}
	}
	return back
}

func (e *each) close() {
	for _, m := range e.members {
		m.close()
	}
}
