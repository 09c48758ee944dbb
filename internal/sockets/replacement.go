package sockets

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
		g.set.disown(next) // it is nobody else's
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
	g.set.disown(m)
	g.replace(m, next)
}

// swapServing swaps where the set of the replacement serves by now.
func (g *group) swapServing() {
	for slot, m := range g.all() {
		if m.next != nil && slot < len(g.set.serving) && g.set.serving[slot] == m.nextFor {
			g.swap(m)
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

// dropNextFor drops the replacements made for a released set.
func (g *group) dropNextFor(l *ListenerSet) {
	for _, m := range g.all() {
		if m.nextFor == l {
			g.dropNext(m)
		}
	}
	_ = g.steer() // the next one reports an error
}
