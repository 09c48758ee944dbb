package sockets

import (
	"cmp"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// group is a socket per slot, in one reuseport group.
type group struct {
	*boundAddress

	seed   uint32
	index  groupIndex
	others map[uint64]Other // sockets that are not the Set's, by cookie
}

// groupIndex mirrors the kernel's array of a group (net/core/sock_reuseport.c), which
// cannot be read: the slot of each socket by index, for other programs' sockets the
// negative cookie.
type groupIndex []int

// leave follows a socket that stopped listening: the last one takes its index.
func (o *groupIndex) leave(slot int) {
	at, last := slices.Index(*o, slot), len(*o)-1
	(*o)[at] = (*o)[last]
	*o = (*o)[:last]
}

// slots returns the slots alone, by index.
func (o groupIndex) slots() []int {
	return slices.DeleteFunc(slices.Clone(o), func(id int) bool { return id < 0 })
}

// seed keeps clients from choosing their slot by their port, not by their address.
func seed(l Listener) uint32 {
	if l.Balance == BalanceSource {
		return 0
	}
	return rand.Uint32()
}

// bind makes the slot's socket, which gets the last index. If systemd's sockets cannot be
// joined, the slots share them.
func (g *group) bind(slot int) (*socket, error) {
	m, err := g.join()
	switch {
	case err == nil:
		m.slot = slot
		return m, nil
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), len(g.sockets) == 0,
		slices.ContainsFunc(g.sockets, func(m *socket) bool { return m == nil || !m.unitOwned }):
		return nil, g.at.end.explain(g.listener, err)
	default:
		return g.sockets[slot%len(g.sockets)], nil
	}
}

func (g *group) join() (*socket, error) {
	how := first
	if g.overlapping {
		how = joining
		g.set.shareAll(g.at.end.port)
	}
	for _, m := range g.all() { // one that a worker has shut down has the port as well
		how = joining
		if m.unitOwned {
			_ = share(m.fd) // without, bind fails
		}
	}
	var m *socket
	var err error
	asUser(g.uid, func() { m, err = g.at.end.listen(g.listener, how) })
	if err != nil {
		return nil, err
	}
	for _, other := range g.all() {
		if other.cookie != m.cookie {
			continue
		}
		m.close()
		return nil, errors.New(`this forkd runs under another one, which gives it one socket for all of its slots: set sockets = "pass" in the other's configuration`)
	}
	g.setPort(m)
	return m, nil
}

func (g *group) configure(before Listener) {
	if g.listener.Balance != before.Balance {
		g.seed = seed(g.listener)
	}
}

// refresh re-reads which sockets listen. The kernel drops a shut-down socket from the
// group and appends it when it listens again. Sockets that left between two refreshes may
// have left in another order: then slots may swap their indexes.
func (g *group) refresh() {
	there, err := g.listening()
	if err != nil {
		// The known members are taken to be all that there are.
		g.set.noDiag.Do(func() { g.set.notice("cannot see who else listens on the app's ports: %v", err) })
		there = slices.Clone(g.index)
		for slot := range g.all() {
			there = append(there, slot)
		}
	}
	for _, id := range slices.Clone(g.index) {
		if !slices.Contains(there, id) {
			g.index.leave(id)
		}
	}
	for _, id := range there {
		if !slices.Contains(g.index, id) {
			g.index = append(g.index, id)
		}
	}
}

// listening returns the group's listening sockets in the order of their listen(2), and
// notes sockets of other programs.
func (g *group) listening() (there []int, err error) {
	all, err := listeners(g.at.end.port)
	if err != nil {
		return nil, err
	}
	slots := map[uint64]int{}
	for slot, m := range g.all() {
		slots[m.cookie] = slot
	}
	var ours groupKey
	for _, l := range all {
		if _, own := slots[l.cookie]; own {
			ours = l.group
		}
	}
	gone := maps.Clone(g.others)
	for _, l := range all {
		delete(gone, l.cookie)
		slot, own := slots[l.cookie]
		within := l.group == ours || slices.Contains(g.index, -int(l.cookie))
		switch {
		case own:
			there = append(there, slot)
			continue
		case within:
			there = append(there, -int(l.cookie))
		case !g.at.end.losesTo(l.group):
			continue
		}
		if _, known := g.others[l.cookie]; !known && !g.set.owns(l.cookie) {
			o := Other{
				Listener: g.listener, ID: l.cookie, at: netip.AddrPortFrom(l.group.addr, uint16(g.at.end.port)),
				inode: l.inode, uid: l.group.uid, within: within,
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

func (g *group) mend(m *socket) (undone []string, err error) {
	undone, revived, err := m.mend(g.boundAddress)
	if revived {
		if slices.Contains(g.index, m.slot) { // shut down since the last refresh
			g.index.leave(m.slot)
		}
		err = cmp.Or(err, g.steer())
	}
	if m.unitOwned || err != nil {
		return undone, err
	}
	// Without SO_REUSEPORT the kernel may give a socket all connections, and no other can
	// be bound.
	on, err := unix.GetsockoptInt(m.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT)
	if err != nil || on != 0 {
		return undone, os.NewSyscallError("getsockopt SO_REUSEPORT", err)
	}
	return append(undone, "a worker had set SO_REUSEPORT to 0"), share(m.fd)
}

func (g *group) flush(m *socket) (err error) {
	if n, listens := m.waiting(); listens && n > 0 {
		g.vacate(m, func() { err = g.boundAddress.flush(m) })
	}
	return err
}

// vacate has a listening socket leave the group. Meanwhile neither it nor the last, which
// takes its index, gets connections, if another can. The caller steers again.
func (g *group) vacate(m *socket, leave func()) {
	g.refresh()
	if !slices.Contains(g.index, m.slot) {
		return
	}
	accepting := g.accepting()
	accepting[m.slot] = false
	if last := g.index[len(g.index)-1]; last >= 0 {
		accepting[last] = false
	}
	if slices.Contains(accepting, true) {
		_ = g.load(accepting) // the caller gets the error
	}
	leave()
	g.index.leave(m.slot)
}

func (g *group) discard(m *socket, end bool) {
	g.dropNext(m)
	if end {
		g.vacate(m, m.end)
	} else {
		g.set.Disown(m.cookie)
	}
	m.close()
}

// leave ends all sockets but unit-owned ones, and returns the slots of these by index.
func (g *group) leave() []int {
	for _, m := range g.all() {
		g.dropNext(m)
	}
	g.refresh()
	for slot, m := range g.all() {
		if !m.unitOwned && slices.Contains(g.index, slot) {
			g.index.leave(slot)
			g.set.forget(m)
			m.end()
			g.sockets[slot] = nil
		}
	}
	return g.index.slots()
}

// fileFor returns the socket for a worker of the set: the slot's, or, if its filter is
// locked, a replacement, which is a member of the group at once. The slot's connections go
// to the old one until the set serves the slot.
func (g *group) fileFor(m *socket, l *ListenerSet) int {
	if m.next == nil {
		if m.unitOwned || !isLocked(m.fd) {
			return m.fd
		}
		next, err := g.join()
		if err != nil {
			g.set.notice("cannot replace the socket of %s yet: %v", g.describe(m), err)
			return m.fd
		}
		g.set.Disown(next.cookie) // it is nobody else's
		next.slot = m.slot
		g.mark(next, next.fd)
		m.next = next
	}
	m.nextFor = l
	g.refresh()
	return m.next.fd
}

// swap makes the replacement, if any, the slot's socket. The old one stays with its
// worker.
func (g *group) swap(m *socket) {
	next := m.next
	if next == nil {
		return
	}
	for at, id := range g.index {
		switch id {
		case m.slot:
			g.index[at] = -int(m.cookie)
		case -int(next.cookie):
			g.index[at] = m.slot
		}
	}
	g.set.Disown(m.cookie)
	g.replace(m, next)
}

// settle swaps the replacements whose set serves by now, and drops those whose set has
// been released.
func (g *group) settle() {
	for slot, m := range g.all() {
		switch {
		case m.next == nil:
		case slot < len(g.set.serving) && g.set.serving[slot] == m.nextFor:
			g.swap(m)
		case !slices.Contains(g.set.sets, m.nextFor):
			g.dropNext(m)
		}
	}
}

// dropNext drops a replacement. The caller refreshes.
func (g *group) dropNext(m *socket) {
	if m.next != nil {
		m.next.close()
		m.next, m.nextFor = nil, nil
	}
}
