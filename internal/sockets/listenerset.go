package sockets

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// ListenerSet is the listeners of one configuration.
type ListenerSet struct {
	set       *Set
	listeners []Listener // as they were asked for
	bound     []*boundAddress
}

func (l *ListenerSet) has(b *boundAddress) bool { return l != nil && slices.Contains(l.bound, b) }

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
	passed, noticed := s.passed, s.notices
	for i, b := range l.bound {
		if b != nil {
			continue
		}
		if err := l.bind(i, wants[i], slots); err != nil {
			s.passed, s.notices = passed, noticed
			l.undo()
			s.markDraining(err)
			return nil, explainLimit(err, len(ls)*slots)
		}
	}
	s.adopt(l, slots)
	return l, nil
}

// bind binds the address of the i-th listener, or takes its passed sockets.
func (l *ListenerSet) bind(i int, want bindAddr, slots int) error {
	s, asked := l.set, l.listeners[i]
	at, chosen, err := l.pick(asked, want)
	if err != nil {
		return err
	}
	overlapping, err := s.overlaps(asked, at)
	if err != nil {
		return err
	}
	s.passed = filter(s.passed, func(p *socket) bool { return !slices.Contains(chosen, p) })
	b := &boundAddress{set: s, want: want, at: at, listener: asked, overlapping: overlapping}
	b.listener.Port = at.end.port
	b.mode = newMode(b, chosen)
	l.bound[i] = b
	if err := b.adopt(chosen); err != nil {
		return err
	}
	for slot := range slots {
		if err := b.open(slot); err != nil {
			return err
		}
	}
	b.explainUnits(asked, chosen, slots)
	return b.mode.steer()
}

// undo closes what Open has bound, except what was passed.
func (l *ListenerSet) undo() {
	for _, b := range l.bound {
		if b == nil || slices.Contains(l.set.bound, b) {
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
	for i, b := range l.bound {
		if slices.Contains(s.bound, b) {
			b.reconfigure(l.listeners[i])
		} else {
			s.bound = append(s.bound, b)
		}
	}
	for _, b := range l.bound {
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
	s.store(l.bound)
}

func (s *Set) dropPassed() {
	unwanted := s.passed
	s.passed = nil
	for _, p := range unwanted {
		if p.unitOwned {
			s.notice("no listener is %s: it is not used, and systemd goes on listening there", p)
			p.close()
			continue
		}
		if p.isUnix() {
			stale := fileAt(p.at.path)
			stale.recognise(p.fd)
			stale.remove()
		}
		s.forget(p)
		p.end()
		s.notice("no listener is %s any more: closed", p)
	}
}

// Release closes the sockets that no other set has: they end with the last worker's copy.
// A unit-owned one is kept for a later set. Called when the workers that served there have
// been told to drain.
func (s *Set) Release(l *ListenerSet) {
	s.sets = filter(s.sets, func(other *ListenerSet) bool { return other != l })
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
				b.mode.settle()
				_ = b.mode.steer() // the next one reports an error
				return false
			}
		}
		back := b.giveBack()
		for _, given := range back {
			s.notice("listener %s is gone: systemd goes on listening on %s: stop its socket unit to free it", b.listener.Name, given.address())
		}
		s.passed = append(s.passed, back...)
		for _, m := range b.all() {
			s.forget(m)
		}
		b.close() // it ends no socket: in a draining worker accept(2) would fail, and many programs with it
		return true
	})
	s.store(s.bound) // under the names that they have now
}

// Files returns the slot's sockets in the order of the listeners, and opens those that it
// has not; they get no connections before Steer says so. The descriptors stay the Set's:
// the caller neither closes them nor uses them after CloseSlot.
func (l *ListenerSet) Files(slot int) ([]int, error) {
	s := l.set
	if slot < 0 || slot >= maxSlots || s.closed || !slices.Contains(s.sets, l) {
		return nil, fmt.Errorf("cannot open the sockets of slot %d: there are none", slot)
	}
	defer s.store(l.bound)
	s.busy[slot] = true
	fds := make([]int, 0, len(l.bound))
	for _, b := range l.bound {
		if b.user(slot) == nil {
			fellBack := b.isFallback()
			if err := cmp.Or(b.open(slot), b.mode.steer()); err != nil {
				s.markDraining(err)
				return nil, explainLimit(err, len(l.bound))
			}
			if !fellBack && b.isFallback() {
				b.explainNumber(len(b.sockets), slot+1)
			}
		}
		fds = append(fds, b.mode.fileFor(b.user(slot), l))
	}
	return fds, nil
}

// Listeners returns the listeners as the slot has them, with the actual mode and port.
func (l *ListenerSet) Listeners(slot int) []Listener {
	ls := slices.Clone(l.listeners)
	for i, b := range l.bound {
		ls[i].Mode, ls[i].Port = b.actual(slot)
	}
	return ls
}

// Sources returns for each listener "systemd" if it has a unit-owned socket, else "bound".
func (l *ListenerSet) Sources() []string {
	sources := make([]string, len(l.bound))
	for i, b := range l.bound {
		sources[i] = "bound"
		if slices.ContainsFunc(b.sockets, func(m *socket) bool { return m != nil && m.unitOwned }) {
			sources[i] = "systemd"
		}
	}
	return sources
}

// explainUnits gives a notice if a unit's sockets are elsewhere, too few or too many.
func (b *boundAddress) explainUnits(asked Listener, given []*socket, slots int) {
	lead := slices.IndexFunc(given, func(p *socket) bool { return p.unitOwned })
	if lead < 0 {
		return
	}
	if !b.forAll() && len(given) != slots {
		b.explainNumber(len(given), slots)
	}
	if !given[lead].in(b.want) {
		b.set.notice("listener %s is served on %s, which systemd passed, and not on %s", asked.Name, given[lead].address(), asked)
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
	for _, b := range l.bound {
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
			if other != b && grown.overlap(taken) != "" {
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
