package sockets

// fresh is another socket for a slot whose own cannot be mended: the next worker
// gets it, and the slot's connections when that one's lineup serves. Until then the
// old one is the slot's.
type fresh struct {
	sock   *socket
	slot   int
	lineup *Lineup
}

// freshFile is the slot's socket for a worker of the lineup.
func (g *group) freshFile(slot int, l *Lineup) int {
	fd, f := g.file(slot), g.fresh[slot]
	switch {
	case f.sock != nil:
		f.lineup = l
		g.fresh[slot] = f
		return f.sock.fd
	case g.members[slot].held || !isLocked(fd):
		return fd
	}
	other, err := g.bind()
	if err != nil {
		g.set.notice("cannot replace the socket of %s%s yet: %v", ofSlot(slot), g.listener, err)
		return fd
	}
	f = fresh{other, slot, l}
	g.fresh[slot] = f
	g.set.disown(f.sock) // it is nobody else's
	g.look()
	return other.fd
}

// takeFresh makes those the slots' own that serve by now.
func (g *group) takeFresh(serving []*Lineup) {
	for slot, f := range g.fresh {
		if slot < len(serving) && serving[slot] == f.lineup {
			g.swap(slot)
		}
	}
}

// swap makes the fresh socket, if there is one, the slot's. The old one is its
// worker's alone then.
func (g *group) swap(slot int) {
	old, f := g.members[slot], g.fresh[slot]
	if f.sock == nil {
		return
	}
	delete(g.fresh, slot)
	for at, id := range g.order {
		switch id {
		case slot:
			g.order[at] = -int(old.cookie)
		case -int(f.sock.cookie):
			g.order[at] = slot
		}
	}
	g.members[slot] = f.sock
	g.set.forget(old)
	g.set.disown(old)
	old.close()
}

// dropFresh gives up those that no worker will serve; look has to follow.
func (g *group) dropFresh(of func(fresh) bool) {
	for slot, f := range g.fresh {
		if of(f) {
			delete(g.fresh, slot)
			f.sock.close()
		}
	}
}
