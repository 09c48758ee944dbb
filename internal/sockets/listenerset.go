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
	places    []*place
}

func (l *ListenerSet) has(p *place) bool { return slices.Contains(l.places, p) }

// Open finds a place for every listener, for slots 0 to slots-1. Those that
// another lineup has are shared with it, and take over the new name, balance,
// backlog and permissions; passed sockets are used; others are bound. When it fails
// nothing has changed; the error says what to do, and is a *HeldError where somebody
// else has the port or the path. slots is 1 to 1024.
func (s *Set) Open(ls []Listener, slots int) (*ListenerSet, error) {
	if slots < 1 || slots > maxSlots {
		return nil, fmt.Errorf("cannot open the sockets of %d slots: 1 to %d can be steered", slots, maxSlots)
	}
	if s.closed {
		return nil, errors.New("cannot open sockets: they have been given up for a stop")
	}
	spots, err := resolveAll(ls, slots)
	if err != nil {
		return nil, err
	}
	l := &ListenerSet{set: s, listeners: slices.Clone(ls), places: make([]*place, len(ls))}
	for i := range ls {
		at := slices.IndexFunc(s.places, func(p *place) bool { return p.serves(spots[i], ls[i]) && !l.has(p) })
		if at < 0 {
			continue
		}
		l.places[i] = s.places[at]
		if had := s.places[at].settings; had.Nonblocking != ls[i].Nonblocking {
			return nil, fmt.Errorf("cannot listen on %s with nonblocking = %t: its workers share the socket, and that can't change while the app runs: set it back, or stop the app and run it again", ls[i], ls[i].Nonblocking)
		}
	}
	d := draft{set: s, lineup: l, slots: slots, rest: s.passed}
	noticed := s.notices
	for i := range ls {
		if l.places[i] != nil {
			continue
		}
		if err := d.add(i, spots[i]); err != nil {
			d.undo()
			s.notices = noticed
			s.recogniseOwn(err)
			return nil, explainLimit(err, len(ls)*slots)
		}
	}
	s.adopt(l, &d)
	return l, nil
}

// recogniseOwn finds out whether the app's own workers are in its way: they have
// the sockets of a listener that is gone, and end when they have drained. Of the
// first lineup they would be a dead master's, which is the caller's matter.
func (s *Set) recogniseOwn(err error) {
	if held, ok := errors.AsType[*HeldError](err); ok && s.opened {
		held.Draining = held.Only(s.own)
	}
}

// adopt makes a lineup the latest: nothing can fail any more.
func (s *Set) adopt(l *ListenerSet, d *draft) {
	s.passed = d.rest
	s.places = append(s.places, d.places...)
	s.lineups = append(s.lineups, l)
	if !s.opened {
		s.opened = true
		s.dropPassed()
	}
	for i, p := range l.places {
		p.settings = l.listeners[i]
		if !slices.Contains(d.places, p) {
			p.configure(l.listeners[i])
		}
		s.dropSurplus(p, d.slots)
	}
	for _, p := range l.places {
		s.keepAll(p)
	}
	s.orders.write(s)
}

// dropPassed closes the passed sockets that no listener wants.
func (s *Set) dropPassed() {
	for _, p := range s.passed {
		switch {
		case p.held:
			s.notice("no listener is %s: it is not used, and systemd goes on listening there", p)
			p.close()
			continue
		case p.unix:
			stale := fileAt(p.path)
			stale.recognise(p.fd)
			stale.remove()
			p.endUnix()
		default:
			p.socket.end()
		}
		s.notice("no listener is %s any more: closed", p)
	}
	gone := s.passed
	s.passed = nil
	for _, p := range gone {
		s.forget(&p.socket)
	}
}

// dropSurplus closes what the fd store has kept for slots that are no more.
func (s *Set) dropSurplus(p *place, slots int) {
	for slot, sock := range p.all() {
		if slot >= slots && sock.parked && !sock.held {
			s.notice("listener %s: the stored socket of slot %d is closed: there will be %s", p.settings.Name, slot, count(slots, "slot"))
			if err := p.closeSlot(slot); err != nil {
				s.notice("%v", err)
			}
		}
	}
}

// Release forgets a lineup: the sockets that no other has are closed, and end with
// the last worker's copy; their unix paths and entries in the fd store are
// removed. One that a socket unit holds is kept, for a lineup that may want it
// again. Called when the workers that served there have been told to drain.
func (s *Set) Release(l *ListenerSet) {
	at := slices.Index(s.lineups, l)
	if at < 0 {
		return
	}
	s.lineups = slices.Delete(s.lineups, at, at+1)
	for slot, serving := range s.serving {
		if serving == l {
			s.serving[slot] = nil
		}
	}
	s.places = slices.DeleteFunc(s.places, func(p *place) bool {
		if !l.has(p) {
			return false
		}
		for _, other := range slices.Backward(s.lineups) {
			if i := slices.Index(other.places, p); i >= 0 {
				p.settings = other.listeners[i]
				p.configure(p.settings)
				if g, ok := p.bound.(*group); ok {
					g.dropFresh(func(f fresh) bool { return f.lineup == l })
					g.look()
				}
				return false
			}
		}
		back := p.giveBack()
		for _, given := range back {
			s.notice("listener %s is gone: systemd goes on listening on %s: stop its socket unit to free it", p.settings.Name, given.address())
		}
		s.passed = append(s.passed, back...)
		p.finish()
		return true
	})
	for _, p := range s.places {
		s.keepAll(p) // under the name that it has now
	}
	s.orders.write(s)
}

// Files returns the slot's sockets in the order of the listeners, and opens what
// is not open: of a slot that is new, or that CloseSlot had closed. Such a slot
// gets no connection before Steer says that it accepts. The descriptors stay the
// Set's: the caller passes them to a worker and neither closes them nor keeps
// them past CloseSlot.
func (l *ListenerSet) Files(slot int) ([]int, error) {
	s := l.set
	if slot < 0 || slot >= maxSlots || s.closed || !slices.Contains(s.lineups, l) {
		return nil, fmt.Errorf("cannot open the sockets of slot %d: there are none", slot)
	}
	s.vacant.set(slot, false)
	fds := make([]int, 0, len(l.places))
	for _, p := range l.places {
		if p.file(slot) < 0 {
			lent := p.isLent()
			if err := p.open(slot); err != nil {
				s.orders.write(s)
				s.recogniseOwn(err)
				return nil, explainLimit(err, len(l.places))
			}
			s.keepAll(p)
			if !lent && p.isLent() {
				s.noticeLent(p, slot+1)
			}
		}
		fd := p.file(slot)
		if g, ok := p.bound.(*group); ok {
			fd = g.freshFile(slot, l)
		}
		fds = append(fds, fd)
	}
	s.orders.write(s)
	return fds, nil
}

// Listeners returns the listeners as the slot has them, with the actual mode and
// port.
func (l *ListenerSet) Listeners(slot int) []Listener {
	ls := slices.Clone(l.listeners)
	for i, p := range l.places {
		ls[i].Mode, ls[i].Port = p.actual(slot)
	}
	return ls
}

// Sources says, for each listener, where its sockets are from: "systemd" where a
// socket unit's is among them, else "bound".
func (l *ListenerSet) Sources() []string {
	sources := make([]string, len(l.places))
	for i, p := range l.places {
		sources[i] = "bound"
		for _, sock := range p.all() {
			if sock.held {
				sources[i] = "systemd"
			}
		}
	}
	return sources
}

// isLent reports whether slots have to share what systemd passed.
func (p *place) isLent() bool {
	g, ok := p.bound.(*group)
	return ok && g.lent
}

func (s *Set) noticeLent(p *place, slots int) {
	n := 0
	for range p.all() {
		n++
	}
	s.notice("listener %s: systemd passed %s for %s, and none can be bound beside it: shared by all slots", p.settings.Name, count(n, "socket"), count(slots, "slot"))
}

// count writes a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// draft is a lineup in the making: what has to be undone if it fails.
type draft struct {
	set    *Set
	lineup *ListenerSet
	slots  int
	rest   []*passed // not wanted so far
	chosen []*passed
	places []*place
}

// adopter is a bound that can take over passed sockets.
type adopter interface {
	bound
	adopt(given []*passed) error
}

// add makes the place of the lineup's i-th listener.
func (d *draft) add(i int, want spot) error {
	s, l := d.set, d.lineup.listeners[i]
	var names []string
	for _, other := range d.lineup.listeners {
		names = append(names, other.Name)
	}
	c, err := pick(l, want, names, d.rest)
	if err != nil {
		return err
	}
	beside, err := s.compete(l, c.at)
	if err != nil {
		return err
	}
	var b adopter
	switch {
	case want.path != "":
		b = newUnix(s, l, c.at.path)
	case want.mode == ModeShared:
		b = newShared(s, l, c.at.end)
	case want.mode == ModeEach:
		b = newEach(s, l, c.at.end)
	default:
		g := newGroup(s, l, c.at.end, beside)
		g.order = s.orders.sort(c.at.end, c.chosen)
		b = g
	}
	p := &place{bound: b, want: want, spot: c.at, settings: l}
	d.places = append(d.places, p)
	d.lineup.places[i] = p
	if len(c.chosen) > 0 {
		d.rest = c.rest
		d.chosen = append(d.chosen, c.chosen...)
		if err := b.adopt(c.chosen); err != nil {
			return err
		}
		d.makeAlike(l, c)
	}
	for slot := range d.slots {
		if err := b.open(slot); err != nil {
			return err
		}
	}
	if _, port := b.actual(0); want.path == "" {
		p.spot.end.port = port
	}
	d.notice(p, c)
	g, ok := b.(*group)
	switch {
	case !ok:
		return nil
	case s.steered:
		return g.steer(make([]bool, len(s.serving)))
	default:
		return g.steer(slices.Repeat([]bool{true}, d.slots))
	}
}

// makeAlike sets on a socket unit's sockets what systemd has not been asked to.
func (d *draft) makeAlike(l Listener, c choice) {
	for _, p := range c.chosen {
		flags, err := unix.FcntlInt(uintptr(p.fd), unix.F_GETFL, 0)
		if err != nil || !p.held || flags&unix.O_NONBLOCK != 0 == l.Nonblocking {
			continue
		}
		if _, err := unix.FcntlInt(uintptr(p.fd), unix.F_SETFL, flags^unix.O_NONBLOCK); err != nil {
			d.set.notice("listener %s: cannot change O_NONBLOCK of its socket: %v", l.Name, err)
		}
	}
}

// notice says what is remarkable about passed sockets.
func (d *draft) notice(p *place, c choice) {
	name := p.settings.Name
	if c.units == 0 {
		return
	}
	if lead := c.chosen[slices.IndexFunc(c.chosen, func(p *passed) bool { return p.held })]; !lead.in(p.want) {
		d.set.notice("listener %s is served on %s, which systemd passed, and not on %s", name, lead.address(), p.settings)
	}
	if p.spot.mode == ModeShared {
		return
	}
	inUse := 0
	for _, given := range c.chosen {
		if given.slot < d.slots {
			inUse++
		}
	}
	switch {
	case p.isLent():
		d.set.noticeLent(p, d.slots)
	case inUse < d.slots:
		d.set.notice("listener %s: systemd passed %s for %s, the others are bound beside it", name, count(inUse, "socket"), count(d.slots, "slot"))
	case len(c.chosen) > d.slots:
		d.set.notice("listener %s: systemd passed %s for %s, the others get no connections", name, count(len(c.chosen), "socket"), count(d.slots, "slot"))
	}
}

// undo closes what the draft has bound, and leaves what it was given.
func (d *draft) undo() {
	for _, p := range d.places {
		for _, sock := range p.all() {
			if slices.ContainsFunc(d.chosen, func(given *passed) bool { return given.fd == sock.fd }) {
				sock.fd = -1
			}
		}
		p.close()
	}
}

// compete refuses what another lineup serves in another way. beside: it serves a
// part of the address in the same way, and the sockets may stand side by side
// until it is released.
func (s *Set) compete(l Listener, want spot) (beside bool, err error) {
	for _, p := range s.places {
		if !p.takes().overlaps(want) {
			continue
		}
		if p.spot.mode != ModeReuseport || want.mode != ModeReuseport || p.spot.end == want.end {
			return false, fmt.Errorf("cannot listen on %s in mode %q while listener %q serves it in mode %q: stop the app and start it again to change that, or choose another address",
				l, want.mode, p.settings.Name, p.spot.mode)
		}
		beside = true
	}
	return beside, nil
}
