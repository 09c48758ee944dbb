package sockets

// fresh is another socket for a slot whose own cannot be mended: the next worker
// gets it, and the slot's connections when that one's lineup serves. Until then the
// old one is the slot's.
type fresh struct {
	sock   *socket
	slot   int
	lineup *ListenerSet
}

// freshFile is the slot's socket for a worker of the lineup.
func (g *group) freshFile(slot int, l *ListenerSet) int {
	fd := g.file(slot)
	if g.fresh[slot].sock == nil && (g.lent || g.members[slot].held || !isLocked(fd)) {
		return fd
	}
	if err := g.renew(slot, l); err != nil {
		g.set.notice("cannot replace the socket of %s%s yet: %v", ofSlot(slot), g.listener, err)
		return fd
	}
	return g.fresh[slot].sock.fd
}

// renew gives the slot a fresh socket for the lineup, if it has none.
func (g *group) renew(slot int, l *ListenerSet) (err error) {
	f := fresh{g.fresh[slot].sock, slot, l}
	if f.sock == nil {
		if f.sock, err = g.bind(); err != nil {
			return err
		}
		g.set.disown(f.sock) // it is nobody else's
	}
	g.fresh[slot] = f
	g.look()
	return nil
}

// takeFresh makes those the slots' own that serve by now.
func (g *group) takeFresh(serving []*ListenerSet) {
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
