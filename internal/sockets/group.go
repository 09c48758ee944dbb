package sockets

import (
	"cmp"
	"errors"
	"iter"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// group is one listener's sockets, a reuseport group of the kernel's.
type group struct {
	set      *Set
	listener Listener // Port is the actual one
	end      endpoint
	seed     uint32
	members  []*socket // by slot
	order    order
	fresh    map[int]fresh    // by slot: for those whose socket cannot be mended
	others   map[uint64]Other // that are not the Set's, by cookie
	accept   []bool           // by slot, as steer was told
	beside   bool             // another place of the Set's has part of the address: the first joins too
	lent     bool             // all are systemd's and none can be bound beside them: slots share them
}

// order is the kernel's view of a group: the slots by index in the group, in
// the order of their listen(2), and the sockets of others, each as its negative
// cookie. It cannot be read back, so every change is followed here
// (net/core/sock_reuseport.c).
type order []int

// join follows a socket that began to listen.
func (o *order) join(slot int) { *o = append(*o, slot) }

// leave follows a socket that no longer listens: the last takes its place.
func (o *order) leave(slot int) {
	at, last := slices.Index(*o, slot), len(*o)-1
	(*o)[at] = (*o)[last]
	*o = (*o)[:last]
}

// slots returns the slots alone, in the group's order.
func (o order) slots() []int {
	return slices.DeleteFunc(slices.Clone(o), func(id int) bool { return id < 0 })
}

func newGroup(s *Set, l Listener, end endpoint, beside bool) *group {
	g := &group{set: s, listener: l, end: end, beside: beside, seed: seed(l), others: map[uint64]Other{}, fresh: map[int]fresh{}}
	g.listener.Port = end.port
	return g
}

// seed keeps clients from choosing their slot: they choose their ports. With
// BalanceSource the slot stays the same from one master to the next.
func seed(l Listener) uint32 {
	if l.Balance == BalanceSource {
		return 0
	}
	return rand.Uint32()
}

// adopt takes over passed sockets, in the kernel's order.
func (g *group) adopt(given []*passed) error {
	for _, p := range given {
		sock, err := p.adopted(g.listener)
		if err != nil {
			return err
		}
		sock.parked, sock.cookie = true, cookie(p.fd)
		g.members = grow(g.members, p.slot, noSocket)
		g.members[p.slot] = &sock
		if !slices.Contains(g.order, p.slot) {
			g.order.join(p.slot)
		}
	}
	return nil
}

// open binds the slot's socket and listens: it is the last of the group then.
// The first listens before the second is bound, to be exclusive for as short a
// time as can be.
func (g *group) open(slot int) error {
	if g.file(slot) >= 0 {
		return nil
	}
	g.members = grow(g.members, slot, noSocket)
	if m := g.members[slot]; m.fd >= 0 {
		m.parked = false
		return nil
	}
	m, err := g.bind()
	switch {
	case err == nil:
		g.members[slot] = m
		if g.accept == nil { // steer is still to come, once for all slots
			return nil
		}
		return g.refresh()
	case g.lendable() && !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE):
		g.lent = true
		return nil
	default:
		return g.end.explain(g.listener, err)
	}
}

// bind makes the next member. Those of systemd's have to be told first that others
// may join.
func (g *group) bind() (m *socket, err error) {
	for _, m := range g.all() {
		if m.held {
			_ = share(m.fd) // without, bind fails
		}
	}
	m = noSocket()
	if m.fd, err = g.end.bind(g.beside || g.isOpen(), g.listener); err != nil {
		return nil, err
	}
	if g.end.port, err = boundPort(m.fd); err == nil {
		err = m.listen(g.listener.Backlog)
	}
	if err != nil {
		unix.Close(m.fd)
		return nil, err
	}
	g.listener.Port, m.cookie = g.end.port, cookie(m.fd)
	return m, nil
}

// isOpen reports whether any member is bound: one that a worker has shut down, and
// that is out of the kernel's order by that, has the port as well.
func (g *group) isOpen() bool {
	return slices.ContainsFunc(g.members, func(m *socket) bool { return m.fd >= 0 })
}

// lendable reports whether the group is systemd's alone.
func (g *group) lendable() bool {
	return g.isOpen() && !slices.ContainsFunc(g.members, func(m *socket) bool { return m.fd >= 0 && !m.held })
}

// lender is the slot whose socket a slot uses: its own, but where slots share.
// -1: it has none.
func (g *group) lender(slot int) int {
	switch {
	case slot < len(g.members) && g.members[slot].fd >= 0 && (g.lent || !g.members[slot].parked):
		return slot
	case !g.lent:
		return -1
	}
	lenders := g.order.slots()
	if len(lenders) == 0 {
		return -1
	}
	slices.Sort(lenders)
	return lenders[slot%len(lenders)]
}

func (g *group) file(slot int) int {
	if lender := g.lender(slot); lender >= 0 {
		return g.members[lender].fd
	}
	return -1
}

func (g *group) actual(int) (mode string, port int) {
	if g.lent {
		return ModeShared, g.end.port
	}
	return ModeReuseport, g.end.port
}

func (g *group) configure(l Listener) {
	if l.Balance != g.listener.Balance {
		g.seed = seed(l)
	}
	l.Port = g.end.port
	for slot, m := range g.all() {
		m.reconfigure(g.set, g.listener, l, ofSlot(slot))
	}
	g.listener = l
}

// look follows what has become of the group: a socket that does not listen any more
// has left it, one that has begun to listen is its last. Any number may have joined
// since the last look; of several that have left it is not known which was first,
// and slots may change places in the group.
func (g *group) look() {
	there, err := g.listening()
	if err != nil {
		// The members that are known are taken to be all that there are.
		g.set.blind.Do(func() { g.set.notice("cannot see who else listens on the app's ports: %v", err) })
		there = slices.Clone(g.order)
		for slot := range g.all() {
			if !slices.Contains(there, slot) {
				there = append(there, slot)
			}
		}
	}
	for _, id := range slices.Clone(g.order) {
		if !slices.Contains(there, id) {
			g.order.leave(id)
		}
	}
	for _, id := range there {
		if !slices.Contains(g.order, id) {
			g.order.join(id)
		}
	}
}

// listening returns the group's sockets that listen, in the order of their listen(2),
// and notes the others that there are.
func (g *group) listening() (there []int, err error) {
	all, err := listeners(g.end.port)
	if err != nil {
		return nil, err
	}
	slots := map[uint64]int{}
	for slot, m := range g.all() {
		slots[m.cookie] = slot
	}
	var ours kin
	for _, l := range all {
		if _, own := slots[l.cookie]; own {
			ours = l.kin
		}
	}
	gone := maps.Clone(g.others)
	for _, l := range all {
		delete(gone, l.cookie)
		slot, own := slots[l.cookie]
		within := l.kin == ours || slices.Contains(g.order, -int(l.cookie))
		switch {
		case own:
			there = append(there, slot)
			continue
		case within:
			there = append(there, -int(l.cookie))
		case !g.end.losesTo(l.kin):
			continue
		}
		if _, known := g.others[l.cookie]; !known && !g.set.owns(l.cookie) {
			o := Other{
				Listener: g.listener, ID: l.cookie, at: netip.AddrPortFrom(l.kin.addr, uint16(g.end.port)),
				inode: l.inode, uid: l.kin.uid, within: within,
			}
			g.others[l.cookie] = o
			g.set.note(o)
		}
	}
	for id, o := range gone {
		delete(g.others, id)
		o.Gone = true
		g.set.note(o)
	}
	return there, nil
}

// refresh steers anew even where nothing has changed: what program the group has
// cannot be read, and every worker can give it another.
func (g *group) refresh() error {
	g.look()
	return g.attach()
}

func (g *group) mend(slot int) (undone string, err error) {
	m := at(g.members, slot)
	undone, revived, err := m.mend(g.set, g.listener, slot)
	if revived {
		if slices.Contains(g.order, slot) { // shut down since the last look
			g.order.leave(slot)
		}
		err = cmp.Or(err, g.refresh())
	}
	if m.fd < 0 || m.held {
		return undone, err
	}
	on, failed := m.keepShared()
	if on {
		undone = joinWords(undone, "a worker had set SO_REUSEPORT to 0")
	}
	return undone, cmp.Or(err, failed)
}

func (g *group) reset(slot int) (changed []string, err error) {
	g.swap(slot)
	changed, replace, err := at(g.members, slot).reset(g.set, g.listener, slot, g.end)
	if replace {
		err = cmp.Or(err, g.renew(slot, nil))
		g.swap(slot)
		err = cmp.Or(err, g.refresh())
	}
	return changed, err
}

func (g *group) queue(slot int) (waiting int, listens bool) {
	return at(g.members, slot).waiting()
}

func (g *group) leaving(slot int) (e endpoint, own bool) {
	return g.end, !g.lent && at(g.members, slot).fd >= 0
}

func (g *group) all() iter.Seq2[int, *socket] { return openOf(g.members) }

// openOf yields the sockets that are open, by slot.
func openOf(members []*socket) iter.Seq2[int, *socket] {
	return func(yield func(int, *socket) bool) {
		for slot, m := range members {
			if m.fd >= 0 && !yield(slot, m) {
				return
			}
		}
	}
}

// closeSlot ends the slot's socket, or parks it where systemd has it too: one
// with a reader elsewhere would keep its share.
func (g *group) closeSlot(slot int) error {
	if slot < len(g.accept) {
		g.accept[slot] = false
	}
	g.dropFresh(func(f fresh) bool { return f.slot == slot })
	g.look()
	if g.lent {
		return g.attach()
	}
	m := at(g.members, slot)
	if m.held {
		m.parked = true
		return cmp.Or(g.flush(slot), g.attach())
	}
	g.set.forget(m)
	if slices.Contains(g.order, slot) {
		g.vacate(slot)
		m.end()
		g.order.leave(slot)
	}
	m.close()
	return g.attach()
}

// flush resets what is queued in a parked socket, if anything is: it leaves the
// group for a moment and is its last then.
func (g *group) flush(slot int) error {
	m := g.members[slot]
	if n, listens := m.waiting(); !listens || n == 0 {
		return nil
	}
	g.vacate(slot)
	err := m.flushQueued(g.listener, slot)
	g.order.leave(slot)
	g.look()
	return err
}

func (g *group) finish() {
	g.dropFresh(func(fresh) bool { return true })
	for _, m := range g.all() {
		g.set.forget(m)
		g.set.disown(m)
		m.close()
	}
	g.order = nil
}

// giveBack hands the passed sockets over in the order that the kernel will have
// them in when the others are gone.
func (g *group) giveBack() []*passed {
	held := false
	for _, m := range g.all() {
		held = held || m.held
	}
	if !held {
		return nil
	}
	g.dropFresh(func(fresh) bool { return true })
	g.look()
	for slot, m := range g.all() {
		if !m.held && slices.Contains(g.order, slot) {
			g.order.leave(slot)
			g.set.forget(m)
			m.end()
		}
	}
	var back []*passed
	for _, slot := range g.order.slots() {
		back = append(back, passedOf(g.members[slot], g.listener, g.end, slot))
		g.members[slot] = noSocket()
	}
	g.order = nil
	return back
}

func (g *group) close() {
	for _, f := range g.fresh {
		f.sock.close()
	}
	for _, m := range g.members {
		m.close()
	}
	g.order = nil
}
