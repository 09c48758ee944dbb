package sockets

import (
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
	at, l := e.at(slot), e.listener
	l.Port = at.port
	if at.port > maxPort {
		return fmt.Errorf("cannot listen for slot %d of %s: its port would be %d, and 65535 is the last: start lower", slot, e.listener, at.port)
	}
	var err error
	*m, err = at.listenAlone(l)
	return err
}

func (e *each) file(slot int) int {
	if slot >= len(e.members) || e.members[slot].parked {
		return -1
	}
	return e.members[slot].fd
}

func (e *each) actual(slot int) (mode string, port int) { return ModeEach, e.at(slot).port }

func (e *each) configure(l Listener) {
	for slot, m := range e.all() {
		m.reconfigure(e.set, e.listener, l, ofSlot(slot))
	}
	e.listener = l
}

func (e *each) mend(slot int) (undone string, err error) {
	if slot >= len(e.members) {
		return "", nil
	}
	undone, _, err = e.members[slot].mend(e.set, e.listener, slot)
	return undone, err
}

func (e *each) reset(slot int) (changed []string, err error) {
	if slot >= len(e.members) || e.members[slot].fd < 0 {
		return nil, nil
	}
	changed, replace, err := e.members[slot].reset(e.set, e.listener, slot, e.end)
	if replace {
		err = first(err, e.closeSlot(slot))
		err = first(err, e.open(slot))
	}
	return changed, err
}

func (e *each) queue(slot int) (waiting int, listens bool) {
	if slot >= len(e.members) {
		return 0, false
	}
	return e.members[slot].waiting()
}

// closeSlot frees the slot's port, where no socket unit of systemd's has it.
func (e *each) closeSlot(slot int) error {
	if slot >= len(e.members) || e.members[slot].fd < 0 {
		return nil
	}
	m := e.members[slot]
	if !m.held {
		e.set.forget(m)
		m.end()
		return nil
	}
	m.parked = true
	return m.flushQueued(e.listener, slot)
}

func (e *each) leaving(slot int) (end endpoint, own bool) {
	return e.at(slot), slot < len(e.members) && e.members[slot].fd >= 0
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
