package sockets

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// ListenerSet is the listeners of one configuration.
type ListenerSet struct {
	set    *Set
	served []*served // by listener
}

// served is a listener of a set. Most are at one address; one that is dual-stack has one
// for each family that its programs have asked for (decision 46).
type served struct {
	asked    Listener
	want     bindAddr // of asked; the port may be 0
	at       bindAddr // where it is: another than want where systemd's sockets are
	families []family // the first is passed to workers
}

type family struct {
	*boundAddress

	taken bool // a program of the set's workers has it
}

func (l *ListenerSet) has(b *boundAddress) bool { return l.listenerAt(b) != nil }

// listenerAt returns the listener that is served at the address, nil: none.
func (l *ListenerSet) listenerAt(b *boundAddress) *served {
	if l != nil {
		for _, e := range l.served {
			if slices.ContainsFunc(e.families, func(f family) bool { return f.boundAddress == b }) {
				return e
			}
		}
	}
	return nil
}

func (l *ListenerSet) bound() (all []*boundAddress) {
	for _, e := range l.served {
		for _, f := range e.families {
			all = append(all, f.boundAddress)
		}
	}
	return all
}

// Open binds every listener for 1 to 1024 slots, or uses passed sockets. An address that
// another set has is shared with it, and takes the new name, balance, backlog and
// permissions. If it fails nothing has changed; the error says what to do, and is a
// *HeldError if somebody else has the port or the path.
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
	l := &ListenerSet{set: s}
	for i := range ls {
		e := &served{asked: ls[i], want: wants[i]}
		l.share(e)
		l.served = append(l.served, e)
		if len(e.families) == 0 {
			continue
		}
		if e.families[0].learned {
			e.asked.Nonblocking = e.families[0].listener.Nonblocking // as its programs want it
		} else if e.families[0].listener.Nonblocking != ls[i].Nonblocking {
			return nil, fmt.Errorf("cannot listen on %s with nonblocking = %t: its workers share the socket, and that can't change while the app runs: set it back, or stop the app and run it again", ls[i], ls[i].Nonblocking)
		}
	}
	passed, noticed := s.passed, s.notices
	for _, e := range l.served {
		if len(e.families) > 0 {
			continue
		}
		if err := l.bind(e, slots); err != nil {
			s.passed, s.notices = passed, noticed
			l.undo()
			s.markDraining(err)
			return nil, explainLimit(err, len(ls)*slots)
		}
	}
	s.adopt(l, slots)
	return l, nil
}

// share gives a listener the addresses at which another set serves it, the latest one
// first: the families that its programs have asked for.
func (l *ListenerSet) share(e *served) {
	add := func(b *boundAddress) {
		if !l.has(b) {
			e.families = append(e.families, family{boundAddress: b})
		}
	}
	for _, other := range slices.Backward(l.set.sets) {
		for _, o := range other.served {
			if o.want.same(e.want) && (e.want.path != "" || e.want.end.port != 0 || o.asked.Name == e.asked.Name) {
				e.at = o.at
				for _, f := range o.families {
					add(f.boundAddress)
				}
				return
			}
		}
	}
	for _, b := range l.set.bound {
		if b.at.same(e.want) {
			e.at = b.at
			add(b)
		}
	}
}

// bind binds a listener's address, or takes its passed sockets.
func (l *ListenerSet) bind(e *served, slots int) error {
	s := l.set
	found, err := l.pick(e)
	if err != nil {
		return err
	}
	overlapping, err := s.overlaps(e.asked, e.at)
	if err != nil {
		return err
	}
	for _, other := range s.bound { // within the address, or around it
		if other.uid != os.Geteuid() && other.takes(1).overlap(e.at) != "" {
			return fmt.Errorf("cannot listen on %s: the app has learned %s from workers of uid %d, whose sockets no other user's can be beside: declare that address instead, or stop the app and start it again",
				e.asked, other.at.end, other.uid)
		}
	}
	for _, g := range found {
		s.passed = filter(s.passed, func(p *socket) bool { return !slices.Contains(g.sockets, p) })
		b := s.newAddress(e.asked, g.at, overlapping || len(found) > 1, g.sockets)
		e.families = append(e.families, family{boundAddress: b})
		if err := b.adopt(g.sockets); err != nil {
			return err
		}
		if err := b.openAll(slots); err != nil {
			return err
		}
		for slot := range slots {
			if e.asked.Learned { // a killed master's workers had it
				b.takers.leave(slot, l)
			}
		}
		e.at.end.port = b.at.end.port
		b.explainUnits(e, g.sockets, slots)
		if err := b.mode.steer(); err != nil {
			return err
		}
	}
	return nil
}

// undo closes what Open has bound, except what was passed.
func (l *ListenerSet) undo() {
	for _, b := range l.bound() {
		if slices.Contains(l.set.bound, b) {
			continue
		}
		for slot, m := range b.all() {
			if slices.Contains(l.set.passed, m) {
				b.sockets[slot] = nil
			}
		}
		b.close()
	}
}

// markDraining marks an error about this app's own draining workers. On the first Open the
// holders are a previous master's: the caller waits for those.
func (s *Set) markDraining(err error) {
	if held, ok := errors.AsType[*HeldError](err); ok && s.opened {
		held.Draining = held.Only(s.own)
	}
}

// adopt makes a set the latest. Nothing can fail any more.
func (s *Set) adopt(l *ListenerSet, slots int) {
	s.sets = append(s.sets, l)
	if !s.opened {
		s.opened = true
		s.dropPassed()
	}
	for _, b := range l.bound() {
		if slices.Contains(s.bound, b) {
			b.reconfigure(l.listenerAt(b).asked)
		} else {
			s.bound = append(s.bound, b)
		}
		for slot, m := range b.all() {
			if slot < slots || m.unitOwned || len(b.usersOf(m)) > 0 {
				continue
			}
			s.notice("listener %s: the stored socket of slot %d is closed: there will be %s", b.listener.Name, slot, count(slots, "slot"))
			if err := b.remove(m); err != nil {
				s.notice("%v", err)
			}
		}
	}
	s.store(l.bound())
}

// Files returns the slot's sockets in the order of the listeners, and opens those that it
// has not; they get no connections before Steer says so. The descriptors stay the Set's:
// the caller neither closes them nor uses them after CloseSlot.
func (l *ListenerSet) Files(slot int) ([]int, error) {
	s := l.set
	if slot < 0 || slot >= maxSlots || s.closed || !slices.Contains(s.sets, l) {
		return nil, fmt.Errorf("cannot open the sockets of slot %d: there are none", slot)
	}
	defer s.store(l.bound())
	s.busy[slot] = true
	fds := make([]int, 0, len(l.served))
	for _, e := range l.served {
		for i, f := range e.families {
			if err := l.openSlot(f.boundAddress, slot); err != nil {
				return nil, err
			}
			if i == 0 {
				fds = append(fds, f.mode.fileFor(f.user(slot), l))
			}
		}
	}
	return fds, nil
}

// openSlot opens the slot's socket at an address of the set, if it is not open.
func (l *ListenerSet) openSlot(b *boundAddress, slot int) error {
	if b.user(slot) != nil {
		return nil
	}
	fellBack := b.isFallback()
	if err := cmp.Or(b.open(slot), b.mode.steer()); err != nil {
		l.set.markDraining(err)
		return explainLimit(err, len(l.served))
	}
	if !fellBack && b.isFallback() {
		b.explainNumber(len(b.sockets), slot+1)
	}
	return nil
}

// Listeners returns the listeners as the slot has them, with the actual mode and port.
func (l *ListenerSet) Listeners(slot int) []Listener {
	ls := make([]Listener, len(l.served))
	for i, e := range l.served {
		ls[i] = e.asked
		ls[i].Mode, ls[i].Port = e.families[0].actual(slot)
	}
	return ls
}

// Sources returns for each listener "systemd" if it has a unit-owned socket, "learned" if
// a program's bind(2) has told of it, else "bound".
func (l *ListenerSet) Sources() []string {
	sources := make([]string, len(l.served))
	for i, e := range l.served {
		sources[i] = "bound"
		for _, f := range e.families {
			switch {
			case f.learned:
				sources[i] = "learned"
			case slices.ContainsFunc(f.sockets, func(m *socket) bool { return m != nil && m.unitOwned }):
				sources[i] = "systemd"
			}
		}
	}
	return sources
}

// explainUnits gives a notice if a unit's sockets are elsewhere, too few or too many.
func (b *boundAddress) explainUnits(e *served, given []*socket, slots int) {
	lead := slices.IndexFunc(given, func(p *socket) bool { return p.unitOwned })
	if lead < 0 {
		return
	}
	if !b.forAll() && len(given) != slots {
		b.explainNumber(len(given), slots)
	}
	if !given[lead].in(e.want) {
		b.set.notice("listener %s is served on %s, which systemd passed, and not on %s", e.asked.Name, given[lead].address(), e.asked)
	}
}

func (b *boundAddress) explainNumber(given, slots int) {
	others := "the others get no connections"
	if b.isFallback() {
		others = "and none can be bound beside it: shared by all slots"
	} else if given < slots {
		others = "the others are bound beside it"
	}
	b.set.notice("listener %s: systemd passed %s for %s, %s", b.listener.Name, count(given, "socket"), count(slots, "slot"), others)
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// overlaps reports whether another set's sockets can stand beside the address until they
// are released. It refuses other overlaps.
func (s *Set) overlaps(l Listener, want bindAddr) (overlapping bool, err error) {
	for _, b := range s.bound {
		if b.takes(1).overlap(want) == "" {
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

// setNonblocking sets O_NONBLOCK for every holder of a socket. changed: it was different.
func setNonblocking(fd int, on bool) (changed bool, err error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 == on {
		return false, err
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags^unix.O_NONBLOCK)
	return true, err
}

// Fits returns why the set could not have so many slots. It compares the app's own
// listeners; whether somebody else has a port is known when it is bound.
func (l *ListenerSet) Fits(slots int) error {
	if slots < 1 || slots > maxSlots {
		return fmt.Errorf("cannot have %s: 1 to %d can be steered", count(slots, "slot"), maxSlots)
	}
	for _, b := range l.bound() {
		if b.at.mode != ModeEach {
			continue
		}
		grown := b.takes(slots)
		if first, last := grown.end.port, grown.end.port+grown.ports-1; last > maxPort {
			return fmt.Errorf("cannot have %s: listener %q takes a port for each, %d to %d, and %d is the last: at most %d slots",
				count(slots, "slot"), b.listener.Name, first, last, maxPort, maxPort-first+1)
		}
		for _, other := range l.set.bound {
			taken := other.takes(1)
			if l.has(other) {
				taken = other.takes(slots)
			}
			if l.listenerAt(other) != l.listenerAt(b) && grown.overlap(taken) != "" {
				return fmt.Errorf("cannot have %s: listener %q takes a port for each, %d to %d, and listener %q has port %d: give one another port",
					count(slots, "slot"), b.listener.Name, grown.end.port, grown.end.port+slots-1, other.listener.Name, max(grown.end.port, taken.end.port))
			}
		}
	}
	return nil
}

// takes is the address with the ports of so many slots, and of all that it has by now.
func (b *boundAddress) takes(slots int) bindAddr {
	at := b.at
	if at.mode == ModeEach {
		at.ports = slots
		for slot := range b.all() {
			at.ports = max(at.ports, slot+1)
		}
	}
	return at
}
