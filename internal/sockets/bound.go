package sockets

import (
	"cmp"
	"fmt"
	"iter"
	"os"
)

// boundAddress is one address that is served in one way. All ListenerSets that want it
// share it.
type boundAddress struct {
	set      *Set
	mode     mode
	at       bindAddr  // where it is; the port is 0 until the first socket is bound
	listener Listener  // of the latest set that has it, with the actual port
	sockets  []*socket // by the slot that each was made for; one for all slots is slot 0's
	users    []*socket // by slot: the socket that an open slot is served from, nil: closed

	overlapping bool // with another address of the Set, whose sockets it can join
	learned     bool // a program's bind(2) has told of it
	uid         int  // whose the sockets are: the master's, or, of a learned one, the program's

	takers takers
}

func (s *Set) newAddress(l Listener, at bindAddr, overlapping bool, given []*socket) *boundAddress {
	b := &boundAddress{set: s, at: at, listener: l, overlapping: overlapping, learned: l.Learned, uid: os.Geteuid()}
	if l.Learned {
		b.uid = l.LearnedFrom()
	}
	b.listener.Port = at.end.port
	b.mode = newMode(b, given)
	return b
}

// mode is what differs between the ways to serve an address. A boundAddress itself is the
// mode of sockets that no other can join: one for all slots, or one on the port of each.
type mode interface {
	// bind makes a listening socket for the slot, or returns another slot's to be shared. In
	// a group it gets no connections before steer.
	bind(slot int) (*socket, error)
	// configure applies what changed in the listener, except the backlog.
	configure(before Listener)
	// mend undoes what a worker did to a socket.
	mend(m *socket) (undone []string, err error)
	// flush resets the queue of a unit-owned socket that no slot uses any more.
	flush(m *socket) error
	// discard closes the descriptor, of which workers keep copies; with end it closes the
	// socket for every holder first, and resets its queue.
	discard(m *socket, end bool)
	// settle makes up for what Steer and Release have changed.
	settle()
	// steer updates the group and its program. It comes before mend.
	steer() error
	// fileFor returns the descriptor for a worker of the set.
	fileFor(m *socket, l *ListenerSet) int
}

func (b *boundAddress) bind(slot int) (*socket, error) {
	end, l := b.at.end, b.listener
	if b.at.mode == ModeEach {
		end.port += slot
		l.Port = end.port
	}
	if end.port > maxPort {
		return nil, fmt.Errorf("cannot listen for slot %d of %s: its port would be %d, and 65535 is the last: start lower", slot, b.listener, end.port)
	}
	how := exclusive
	if b.overlapping {
		how = joining
		b.set.shareAll(end.port)
	}
	m, err := end.listen(l, how)
	if err != nil {
		return nil, end.explain(l, err)
	}
	m.slot = slot
	if end.port == 0 {
		b.setPort(m)
	}
	return m, nil
}

func (*boundAddress) configure(Listener)                    {}
func (*boundAddress) settle()                               {}
func (*boundAddress) steer() error                          { return nil }
func (*boundAddress) fileFor(m *socket, _ *ListenerSet) int { return m.fd }

func (*boundAddress) discard(m *socket, end bool) {
	if end {
		m.end()
	}
	m.close()
}

func (b *boundAddress) mend(m *socket) (undone []string, err error) {
	undone, _, err = m.mend(b)
	return undone, err
}

// Modes are the names of the modes of TCP.
func Modes() []string { return []string{ModeReuseport, ModeShared, ModeEach} }

func newMode(b *boundAddress, given []*socket) mode {
	switch {
	case b.at.path != "":
		u := &unixSocket{boundAddress: b, file: fileAt(b.at.path)}
		for _, p := range given {
			if !p.unitOwned {
				u.file.recognise(p.fd)
			}
		}
		return u
	case b.at.mode == ModeReuseport:
		index := b.set.record.sort(b.at.end, given)
		return &group{boundAddress: b, seed: seed(b.listener), index: index, others: map[uint64]Other{}}
	default:
		return b
	}
}

func (b *boundAddress) forAll() bool { return b.at.mode == ModeShared }

// adopt takes over passed sockets, whose slots are not open yet.
func (b *boundAddress) adopt(given []*socket) error {
	for _, m := range given {
		b.put(m)
		if m.unitOwned { // systemd has not been asked to
			if _, err := setNonblocking(m.fd, b.listener.Nonblocking); err != nil {
				b.set.notice("listener %s: cannot change O_NONBLOCK of its socket: %v", b.listener.Name, err)
			}
		}
		if err := m.listen(b.listener.Backlog); err != nil {
			return fmt.Errorf("cannot listen on %s, %s: %w", b.listener, m, err)
		}
	}
	return nil
}

func (b *boundAddress) put(m *socket) { b.sockets = put(b.sockets, m.slot, m) }

// open makes the slot's socket if it has none. The caller steers.
func (b *boundAddress) open(slot int) (err error) {
	home := slot
	if b.forAll() {
		home = 0
	}
	m := at(b.sockets, home)
	if m == nil {
		if m, err = b.mode.bind(home); err != nil {
			return err
		}
		b.put(m)
	}
	b.mark(m, m.fd)
	b.users = put(b.users, slot, m)
	return nil
}

func (b *boundAddress) openAll(slots int) error {
	for slot := range slots {
		if err := b.open(slot); err != nil {
			return err
		}
	}
	return nil
}

func put(list []*socket, slot int, m *socket) []*socket {
	if missing := slot + 1 - len(list); missing > 0 {
		list = append(list, make([]*socket, missing)...)
	}
	list[slot] = m
	return list
}

func at(list []*socket, slot int) *socket {
	if slot >= len(list) {
		return nil
	}
	return list[slot]
}

func (b *boundAddress) setPort(m *socket) {
	b.at.end.port, b.listener.Port = m.at.end.port, m.at.end.port
}

// actual returns the mode and the port that the slot is served with.
func (b *boundAddress) actual(slot int) (mode string, port int) {
	mode, port = b.at.mode, b.at.end.port
	if mode == ModeEach {
		port += slot
	} else if b.isFallback() {
		mode = ModeShared
	}
	return mode, port
}

// isFallback reports whether slots share systemd's sockets because none can be bound
// beside them.
func (b *boundAddress) isFallback() bool {
	for slot, m := range b.users {
		if m != nil && m.slot != slot && !b.forAll() {
			return true
		}
	}
	return false
}

func (b *boundAddress) all() iter.Seq2[int, *socket] {
	return func(yield func(int, *socket) bool) {
		for slot, m := range b.sockets {
			if m != nil && !yield(slot, m) {
				return
			}
		}
	}
}

func (b *boundAddress) user(slot int) *socket { return at(b.users, slot) }

func (b *boundAddress) usersOf(m *socket) (slots []int) {
	for slot, used := range b.users {
		if used == m {
			slots = append(slots, slot)
		}
	}
	return slots
}

func (b *boundAddress) reconfigure(l Listener) {
	before := b.listener
	if l.Network != "unix" {
		l.Port = b.at.end.port
	}
	b.listener = l
	if l.Backlog != before.Backlog {
		for _, m := range b.all() {
			if err := m.listen(l.Backlog); err != nil {
				b.set.notice("cannot set the backlog of %s: %v", b.describe(m), err)
			}
		}
	}
	b.mode.configure(before)
}

func (b *boundAddress) describe(m *socket) string {
	if b.forAll() {
		return b.listener.String()
	}
	return fmt.Sprintf("slot %d on %s", m.slot, b.listener)
}

// closeSlot ends the slot's socket, if no other slot uses it and no unit owns it.
func (b *boundAddress) closeSlot(slot int) error {
	m := b.user(slot)
	if m == nil {
		return nil
	}
	b.users[slot] = nil
	b.takers.closeSlot(slot)
	switch {
	case len(b.usersOf(m)) > 0:
		return nil
	case m.unitOwned:
		return cmp.Or(b.mode.flush(m), b.mode.steer())
	default:
		return b.remove(m)
	}
}

func (b *boundAddress) remove(m *socket) error {
	b.set.forget(m)
	b.mode.discard(m, true)
	b.sockets[m.slot] = nil
	return b.mode.steer()
}

// replace puts next in the place of m, whose descriptor it closes.
func (b *boundAddress) replace(m, next *socket) {
	old := *m
	next.slot = m.slot
	*m = *next
	b.set.forget(&old)
	old.close()
}

// giveBack takes the unit-owned sockets out, by index of a group.
func (b *boundAddress) giveBack() []*socket {
	var slots []int
	for slot, m := range b.all() {
		if m.unitOwned {
			slots = append(slots, slot)
		}
	}
	if g, ok := b.mode.(*group); ok && len(slots) > 0 {
		slots = g.leave()
	}
	var back []*socket
	for _, slot := range slots {
		back = append(back, b.sockets[slot])
		b.sockets[slot] = nil
	}
	return back
}

func (b *boundAddress) close() {
	for _, m := range b.all() {
		b.mode.discard(m, false)
	}
	b.sockets, b.users = nil, nil
}
