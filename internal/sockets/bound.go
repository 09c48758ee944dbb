package sockets

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
)

// boundAddress is one address that is served in one way. All ListenerSets that
// want it share it.
type boundAddress struct {
	set      *Set
	mode     mode
	want     bindAddr  // as configured; the port may be 0
	at       bindAddr  // where it is
	listener Listener  // of the latest set that has it, with the actual port
	sockets  []*socket // by the slot that each was made for; one for all slots is slot 0's
	users    []*socket // by slot: the socket that an open slot is served from, nil: closed
}

// mode is what differs between the ways to serve an address. To add one, write its
// methods in a file of its own and name it in newMode.
type mode interface {
	// bind makes a socket for the slot, which listens. In a group it gets no
	// connection before steer. It may return another slot's, to be shared.
	bind(slot int) (*socket, error)
	// configure takes over what has changed in the listener, but for the backlog.
	configure(before Listener)
	// mend undoes what a worker did to a socket, and says what that was.
	mend(m *socket) (undone string, err error)
	// flush resets what is queued in a socket unit's socket, which no slot uses now.
	flush(m *socket) error
	// end closes a socket for every holder, and resets its queue.
	end(m *socket) error
	// drop gives up the descriptor. The socket ends with the last worker's copy.
	drop(m *socket)
}

// newMode makes the mode of an address that is to adopt the passed sockets given.
func newMode(b *boundAddress, given []*passed, overlapping bool) mode {
	switch {
	case b.at.path != "":
		return newUnix(b, given)
	case b.at.mode == ModeShared:
		return shared{plain{b}}
	case b.at.mode == ModeEach:
		return each{plain{b}}
	default:
		return newGroup(b, given, overlapping)
	}
}

// plain is what the modes of TCP have in common.
type plain struct{ *boundAddress }

func (p plain) configure(Listener) {}

func (p plain) mend(m *socket) (undone string, err error) {
	undone, _, err = m.mend(p.boundAddress)
	return undone, err
}

func (p plain) flush(m *socket) error { return m.flushQueued(p.boundAddress) }

func (p plain) end(m *socket) error {
	m.end()
	return nil
}

func (p plain) drop(m *socket) { m.close() }

// forAll reports whether there is one socket for all slots.
func (b *boundAddress) forAll() bool { return b.at.mode == ModeShared }

// slotOf is the slot that a socket is named by, -1: it is for all.
func (b *boundAddress) slotOf(m *socket) int {
	if b.forAll() {
		return -1
	}
	return m.slot
}

// serves reports whether the address is what a listener asks for.
func (b *boundAddress) serves(want bindAddr, l Listener) bool {
	if want.path == "" && want.end.port == 0 {
		return b.want.same(want) && b.listener.Name == l.Name
	}
	return b.want.same(want) || b.at.same(want)
}

// adopt takes over passed sockets. Their slots are not open yet.
func (b *boundAddress) adopt(given []*passed) error {
	for _, p := range given {
		m := p.socket
		b.put(&m)
		if m.unitOwned { // systemd has not been asked to
			if _, err := setNonblocking(m.fd, b.listener.Nonblocking); err != nil {
				b.set.notice("listener %s: cannot change O_NONBLOCK of its socket: %v", b.listener.Name, err)
			}
		}
		if err := m.listen(b.listener.Backlog); err != nil {
			return fmt.Errorf("cannot listen on %s, %s: %w", b.listener, p, err)
		}
	}
	return nil
}

func (b *boundAddress) put(m *socket) {
	b.sockets = grow(b.sockets, m.slot)
	b.sockets[m.slot] = m
}

// open makes the slot's socket if it has none. Steer has to follow.
func (b *boundAddress) open(slot int) (err error) {
	home := slot
	if b.forAll() {
		home = 0
	}
	var m *socket
	if home < len(b.sockets) {
		m = b.sockets[home]
	}
	if m == nil {
		if m, err = b.mode.bind(home); err != nil {
			return err
		}
		b.put(m)
	}
	b.users = grow(b.users, slot)
	b.users[slot] = m
	return nil
}

// file returns the slot's socket, -1 where it is not open.
func (b *boundAddress) file(slot int) int {
	if m := b.user(slot); m != nil {
		return m.fd
	}
	return -1
}

// actual returns the mode and the port that the slot is served with.
func (b *boundAddress) actual(slot int) (mode string, port int) {
	switch {
	case b.at.mode == ModeEach:
		return ModeEach, b.at.end.port + slot
	case b.isFallback():
		return ModeShared, b.at.end.port
	default:
		return b.at.mode, b.at.end.port
	}
}

// isFallback reports whether slots of a group share what systemd passed, because
// none can be bound beside it.
func (b *boundAddress) isFallback() bool {
	if b.forAll() {
		return false
	}
	for slot, m := range b.users {
		if m != nil && m.slot != slot {
			return true
		}
	}
	return false
}

// all yields the open sockets by the slots that they were made for.
func (b *boundAddress) all() iter.Seq2[int, *socket] {
	return func(yield func(int, *socket) bool) {
		for slot, m := range b.sockets {
			if m != nil && !yield(slot, m) {
				return
			}
		}
	}
}

// user is the socket that the slot is served from, nil: it is closed.
func (b *boundAddress) user(slot int) *socket {
	if slot >= len(b.users) {
		return nil
	}
	return b.users[slot]
}

// usersOf returns the open slots that a socket serves.
func (b *boundAddress) usersOf(m *socket) (slots []int) {
	for slot, used := range b.users {
		if used == m {
			slots = append(slots, slot)
		}
	}
	return slots
}

// reconfigure takes over another name, balance, backlog and permissions.
func (b *boundAddress) reconfigure(l Listener) {
	before := b.listener
	if l.Network != "unix" {
		l.Port = b.at.end.port
	}
	b.listener = l
	for _, m := range b.all() {
		if l.Backlog == before.Backlog {
			break
		}
		if err := m.listen(l.Backlog); err != nil {
			b.set.notice("cannot set the backlog of %s: %v", b.describe(m), err)
		}
	}
	b.mode.configure(before)
}

// describe names a socket of the listener's.
func (b *boundAddress) describe(m *socket) string { return ofSlot(b.slotOf(m)) + b.listener.String() }

// reset sets the options of the slot's socket back, if no slot that uses it has a
// worker. A slot's own on which something cannot be set back is replaced.
func (b *boundAddress) reset(slot int) (changed []string, err error) {
	m := b.user(slot)
	if m == nil || slices.ContainsFunc(b.usersOf(m), func(slot int) bool { return b.set.busy[slot] }) {
		return nil, nil
	}
	if g, ok := b.mode.(*group); ok {
		g.swap(m)
	}
	changed, replace, err := m.reset(b)
	if replace {
		_ = b.closeSlot(slot) // what fails is steering, which follows again
		err = cmp.Or(b.open(slot), b.steer())
	}
	return changed, err
}

// closeSlot ends the slot's socket, where no other slot uses it. One that a socket
// unit has too stays, and serves nobody.
func (b *boundAddress) closeSlot(slot int) error {
	m := b.user(slot)
	if m == nil {
		return nil
	}
	b.users[slot] = nil
	switch {
	case len(b.usersOf(m)) > 0:
		return nil
	case m.unitOwned:
		return b.mode.flush(m)
	default:
		return b.remove(m)
	}
}

// remove ends a socket that no slot uses.
func (b *boundAddress) remove(m *socket) error {
	b.set.forget(m)
	err := b.mode.end(m)
	b.sockets[m.slot] = nil
	return err
}

// steer brings up to date what the slots have in common. It comes before mend.
func (b *boundAddress) steer() error {
	if g, ok := b.mode.(*group); ok {
		return g.steer()
	}
	return nil
}

// accepts reports whether the slot's worker knows the listener, and gets connections.
func (b *boundAddress) accepts(slot int) bool {
	s := b.set
	return !s.steered || slot < len(s.serving) && s.serving[slot] != nil && s.serving[slot].has(b)
}

// replace puts another socket in the place of one, which is given up.
func (b *boundAddress) replace(m, next *socket) {
	old := *m
	next.slot = m.slot
	*m = *next
	b.set.forget(&old)
	old.close()
}

// giveBack takes a socket unit's sockets out, in the kernel's order where that
// matters.
func (b *boundAddress) giveBack() []*passed {
	var slots []int
	for slot, m := range b.all() {
		if m.unitOwned {
			slots = append(slots, slot)
		}
	}
	if g, ok := b.mode.(*group); ok && len(slots) > 0 {
		slots = g.leave()
	}
	var back []*passed
	for _, slot := range slots {
		p := &passed{socket: *b.sockets[slot], at: b.at, unix: b.at.path != ""}
		p.name = p.unit
		if b.at.mode == ModeEach {
			p.at.end.port += slot
		}
		back = append(back, p)
		b.sockets[slot] = nil
	}
	return back
}

// finish gives up every socket, and what the fd store has of them. A worker that
// drains still may hold one: what is queued there ends with its copy. Ended under
// it, its accept would fail, and many programs with that.
func (b *boundAddress) finish() {
	for _, m := range b.all() {
		b.set.forget(m)
	}
	b.close()
}

// close gives up the descriptors.
func (b *boundAddress) close() {
	for _, m := range b.all() {
		b.mode.drop(m)
	}
	b.sockets, b.users = nil, nil
}

// grow makes a list long enough to have an entry for the slot.
func grow(list []*socket, slot int) []*socket {
	if slot < len(list) {
		return list
	}
	return append(list, make([]*socket, slot+1-len(list))...)
}
