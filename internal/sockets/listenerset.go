package sockets

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// ListenerSet is the listeners of one configuration, in its order.
type ListenerSet struct {
	set       *Set
	listeners []Listener // as they were asked for
	bound     []*boundAddress
}

func (l *ListenerSet) has(b *boundAddress) bool { return slices.Contains(l.bound, b) }

// Open binds every listener, for slots 0 to slots-1. Addresses that another set
// has are shared with it, and take over the new name, balance, backlog and
// permissions. Passed sockets are used; others are bound. When it fails nothing has
// changed; the error says what to do, and is a *HeldError where somebody else has
// the port or the path. slots is 1 to 1024.
func (s *Set) Open(ls []Listener, slots int) (*ListenerSet, error) {
	if slots < 1 || slots > maxSlots {
		return nil, fmt.Errorf("cannot open the sockets of %d slots: 1 to %d can be steered", slots, maxSlots)
	}
	if s.closed {
		return nil, errors.New("cannot open sockets: they have been given up for a stop")
	}
	wants, err := resolveAll(ls, slots)
	if err != nil {
		return nil, err
	}
	l := &ListenerSet{set: s, listeners: slices.Clone(ls), bound: make([]*boundAddress, len(ls))}
	for i := range ls {
		at := slices.IndexFunc(s.bound, func(b *boundAddress) bool { return b.serves(wants[i], ls[i]) && !l.has(b) })
		if at < 0 {
			continue
		}
		l.bound[i] = s.bound[at]
		if s.bound[at].listener.Nonblocking != ls[i].Nonblocking {
			return nil, fmt.Errorf("cannot listen on %s with nonblocking = %t: its workers share the socket, and that can't change while the app runs: set it back, or stop the app and run it again", ls[i], ls[i].Nonblocking)
		}
	}
	d := draft{Set: s, lineup: l, slots: slots, rest: s.passed}
	noticed := s.notices
	for i := range ls {
		if l.bound[i] != nil {
			continue
		}
		if err := d.add(i, wants[i]); err != nil {
			d.undo()
			s.notices = noticed
			s.markDraining(err)
			return nil, explainLimit(err, len(ls)*slots)
		}
	}
	s.adopt(l, &d)
	return l, nil
}

// markDraining sets HeldError.Draining when the app's own draining workers still
// hold the port of a removed listener. For the first set the holders are a previous
// master's: the caller waits for those.
func (s *Set) markDraining(err error) {
	if held, ok := errors.AsType[*HeldError](err); ok && s.opened {
		held.Draining = held.Only(s.own)
	}
}

// adopt makes a set the latest: nothing can fail any more.
func (s *Set) adopt(l *ListenerSet, d *draft) {
	s.passed = d.rest
	s.bound = append(s.bound, d.added...)
	s.sets = append(s.sets, l)
	if !s.opened {
		s.opened = true
		s.dropPassed()
	}
	for i, b := range l.bound {
		if !slices.Contains(d.added, b) {
			b.reconfigure(l.listeners[i])
		}
		s.dropSurplus(b, d.slots)
	}
	s.store(l.bound)
}

// dropPassed closes the passed sockets that no listener wants.
func (s *Set) dropPassed() {
	for _, p := range s.passed {
		switch {
		case p.unitOwned:
			s.notice("no listener is %s: it is not used, and systemd goes on listening there", p)
			p.close()
			continue
		case p.unix:
			stale := fileAt(p.path)
			stale.recognise(p.fd)
			stale.remove()
		}
		p.end()
		s.notice("no listener is %s any more: closed", p)
	}
	gone := s.passed
	s.passed = nil
	for _, p := range gone {
		s.forget(&p.socket)
	}
}

// dropSurplus closes what the fd store has kept for slots that are no more.
func (s *Set) dropSurplus(b *boundAddress, slots int) {
	for slot, m := range b.all() {
		if slot < slots || m.unitOwned || slices.Contains(b.users, m) {
			continue
		}
		s.notice("listener %s: the stored socket of slot %d is closed: there will be %s", b.listener.Name, slot, count(slots, "slot"))
		if err := b.remove(m); err != nil {
			s.notice("%v", err)
		}
	}
}

// Release forgets a set: the sockets that no other has are closed, and end with
// the last worker's copy; their unix paths and entries in the fd store are
// removed. One that a socket unit owns is kept, for a set that may want it
// again. Called when the workers that served there have been told to drain.
func (s *Set) Release(l *ListenerSet) {
	at := slices.Index(s.sets, l)
	if at < 0 {
		return
	}
	s.sets = slices.Delete(s.sets, at, at+1)
	for slot, serving := range s.serving {
		if serving == l {
			s.serving[slot] = nil
		}
	}
	s.bound = slices.DeleteFunc(s.bound, func(b *boundAddress) bool {
		if !l.has(b) {
			return false
		}
		for _, other := range slices.Backward(s.sets) {
			if i := slices.Index(other.bound, b); i >= 0 {
				b.reconfigure(other.listeners[i])
				if g, ok := b.mode.(*group); ok {
					g.dropNextFor(l)
				}
				return false
			}
		}
		back := b.giveBack()
		for _, given := range back {
			s.notice("listener %s is gone: systemd goes on listening on %s: stop its socket unit to free it", b.listener.Name, given.address())
		}
		s.passed = append(s.passed, back...)
		b.finish()
		return true
	})
	s.store(s.bound) // under the names that they have now
}

// Files returns the slot's sockets in the order of the listeners, and opens what
// is not open: of a slot that is new, or that CloseSlot had closed. Such a slot
// gets no connection before Steer says that it accepts. The descriptors stay the
// Set's: the caller passes them to a worker and neither closes them nor keeps
// them past CloseSlot.
func (l *ListenerSet) Files(slot int) ([]int, error) {
	s := l.set
	if slot < 0 || slot >= maxSlots || s.closed || !slices.Contains(s.sets, l) {
		return nil, fmt.Errorf("cannot open the sockets of slot %d: there are none", slot)
	}
	defer s.store(l.bound)
	s.busy[slot] = true
	fds := make([]int, 0, len(l.bound))
	for _, b := range l.bound {
		if b.file(slot) < 0 {
			fellBack := b.isFallback()
			err := b.open(slot)
			if err == nil {
				err = b.steer()
			}
			if err != nil {
				s.markDraining(err)
				return nil, explainLimit(err, len(l.bound))
			}
			if !fellBack && b.isFallback() {
				s.noticeFallback(b, slot+1)
			}
		}
		fd := b.file(slot)
		if g, ok := b.mode.(*group); ok {
			fd = g.fileFor(b.users[slot], l)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// Listeners returns the listeners as the slot has them, with the actual mode and
// port.
func (l *ListenerSet) Listeners(slot int) []Listener {
	ls := slices.Clone(l.listeners)
	for i, b := range l.bound {
		ls[i].Mode, ls[i].Port = b.actual(slot)
	}
	return ls
}

// Sources says, for each listener, where its sockets are from: "systemd" where a
// socket unit's is among them, else "bound".
func (l *ListenerSet) Sources() []string {
	sources := make([]string, len(l.bound))
	for i, b := range l.bound {
		sources[i] = "bound"
		for _, m := range b.all() {
			if m.unitOwned {
				sources[i] = "systemd"
			}
		}
	}
	return sources
}

func (s *Set) noticeFallback(b *boundAddress, slots int) {
	n := 0
	for range b.all() {
		n++
	}
	s.notice("listener %s: systemd passed %s for %s, and none can be bound beside it: shared by all slots", b.listener.Name, count(n, "socket"), count(slots, "slot"))
}

// count writes a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// draft is a ListenerSet in the making: what has to be undone if it fails.
type draft struct {
	*Set

	lineup *ListenerSet
	slots  int
	rest   []*passed // not wanted so far
	chosen []*passed
	added  []*boundAddress
}

// add binds the address of the i-th listener.
func (d *draft) add(i int, want bindAddr) error {
	l := d.lineup.listeners[i]
	var names []string
	for _, other := range d.lineup.listeners {
		names = append(names, other.Name)
	}
	c, err := pick(l, want, names, d.rest)
	if err != nil {
		return err
	}
	overlapping, err := d.overlaps(l, c.at)
	if err != nil {
		return err
	}
	l.Port = c.at.end.port
	b := &boundAddress{set: d.Set, want: want, at: c.at, listener: l}
	b.mode = newMode(b, c.chosen, overlapping)
	d.added = append(d.added, b)
	d.lineup.bound[i] = b
	d.rest = c.rest
	d.chosen = append(d.chosen, c.chosen...)
	if err := b.adopt(c.chosen); err != nil {
		return err
	}
	d.makeAlike(l, c)
	for slot := range d.slots {
		if err := b.open(slot); err != nil {
			return err
		}
	}
	d.explain(b, d.lineup.listeners[i], c)
	return b.steer()
}

// makeAlike sets on a socket unit's sockets what systemd has not been asked to.
func (d *draft) makeAlike(l Listener, c choice) {
	for _, p := range c.chosen {
		if !p.unitOwned {
			continue
		}
		if _, err := setNonblocking(p.fd, l.Nonblocking); err != nil {
			d.notice("listener %s: cannot change O_NONBLOCK of its socket: %v", l.Name, err)
		}
	}
}

// explain says what is remarkable about a socket unit's sockets.
func (d *draft) explain(b *boundAddress, asked Listener, c choice) {
	if c.units == 0 {
		return
	}
	if lead := c.chosen[slices.IndexFunc(c.chosen, func(p *passed) bool { return p.unitOwned })]; !lead.in(b.want) {
		d.notice("listener %s is served on %s, which systemd passed, and not on %s", asked.Name, lead.address(), asked)
	}
	inUse := 0
	for _, given := range c.chosen {
		if given.slot < d.slots {
			inUse++
		}
	}
	switch {
	case b.forAll():
	case b.isFallback():
		d.noticeFallback(b, d.slots)
	case inUse < d.slots:
		d.notice("listener %s: systemd passed %s for %s, the others are bound beside it", asked.Name, count(inUse, "socket"), count(d.slots, "slot"))
	case len(c.chosen) > d.slots:
		d.notice("listener %s: systemd passed %s for %s, the others get no connections", asked.Name, count(len(c.chosen), "socket"), count(d.slots, "slot"))
	}
}

// undo closes what the draft has bound, and leaves what it was given.
func (d *draft) undo() {
	for _, b := range d.added {
		for slot, m := range b.all() {
			if slices.ContainsFunc(d.chosen, func(given *passed) bool { return given.fd == m.fd }) {
				b.sockets[slot] = nil
			}
		}
		b.close()
	}
}

// overlaps refuses what another set serves in another way. It is true where that
// serves a part of the address in the same way: the sockets may stand side by side
// until it is released.
func (s *Set) overlaps(l Listener, want bindAddr) (overlapping bool, err error) {
	for _, b := range s.bound {
		if b.takes().overlap(want) == "" {
			continue
		}
		if b.at.mode != ModeReuseport || want.mode != ModeReuseport || b.at.end == want.end {
			return false, fmt.Errorf("cannot listen on %s in mode %q while listener %q serves it in mode %q: stop the app and start it again to change that, or choose another address",
				l, want.mode, b.listener.Name, b.at.mode)
		}
		overlapping = true
	}
	return overlapping, nil
}

// setNonblocking sets O_NONBLOCK, for every holder of a socket, and reports whether
// it was different.
func setNonblocking(fd int, on bool) (changed bool, err error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 == on {
		return false, err
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags^unix.O_NONBLOCK)
	return true, err
}
