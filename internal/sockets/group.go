package sockets

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"golang.org/x/sys/unix"
)

// group is one listener's sockets, a reuseport group of the kernel's.
type group struct {
	listener Listener // Port is the actual one
	end      endpoint
	seed     uint32
	members  []member // by slot
	order    order
}

// member is one slot's socket.
type member struct {
	fd      int    // -1: closed
	backlog uint32 // what the kernel made of the configured one
}

// order is the kernel's view of a group: the slots by index in the group, in
// the order of their listen(2). It cannot be read back, so every change is
// followed here (net/core/sock_reuseport.c).
type order []int

// join follows a socket that began to listen.
func (o *order) join(slot int) { *o = append(*o, slot) }

// leave follows a socket that no longer listens: the last takes its place.
func (o *order) leave(slot int) {
	at, last := slices.Index(*o, slot), len(*o)-1
	(*o)[at] = (*o)[last]
	*o = (*o)[:last]
}

// openGroup binds and listens for all slots. The first socket listens before
// the second is bound, to be exclusive for as short a time as can be.
func openGroup(l Listener, end endpoint, slots int) (*group, error) {
	g := &group{listener: l, end: end, members: slices.Repeat([]member{{fd: -1}}, slots)}
	if l.Balance != BalanceSource {
		// Clients choose their ports: they must not choose their slot. With
		// BalanceSource the slot stays the same from one master to the next.
		g.seed = rand.Uint32()
	}
	for slot := range slots {
		if err := g.open(slot); err != nil {
			g.close()
			return nil, g.explain(err)
		}
	}
	return g, nil
}

// open binds the slot's socket and listens: it is the last of the group then.
func (g *group) open(slot int) error {
	fd, err := g.end.bind(len(g.order) > 0, g.listener.Nonblocking)
	if err != nil {
		return err
	}
	if g.end.port == 0 {
		if g.end.port, err = boundPort(fd); err != nil {
			unix.Close(fd)
			return err
		}
		g.listener.Port = g.end.port
	}
	backlog, err := listen(fd, g.listener.Backlog)
	if err != nil {
		unix.Close(fd)
		return err
	}
	g.members[slot] = member{fd: fd, backlog: backlog}
	g.order.join(slot)
	return nil
}

func (g *group) reopen(slot int, accept []bool) error {
	g.look()
	if err := g.open(slot); err != nil {
		return g.explain(err)
	}
	return g.steer(accept)
}

// look finds the sockets that a worker has shut down and that have left the
// kernel's group by that. One between two looks is followed exactly; of several
// it is not known who went first, and slots may change places in the group.
func (g *group) look() {
	for _, slot := range slices.Sorted(slices.Values(g.order)) {
		if state, err := inspect(g.members[slot].fd); err != nil || !state.listens {
			g.order.leave(slot)
		}
	}
}

// steer attaches the program for the slots that accept.
func (g *group) steer(accept []bool) error {
	if len(g.order) == 0 {
		return nil
	}
	accepting := make([]bool, len(accept))
	for _, slot := range g.order {
		accepting[slot] = accept[slot]
	}
	if !slices.Contains(accepting, true) {
		for _, slot := range g.order {
			accepting[slot] = true
		}
	}
	balance := program(g.listener.Balance, g.seed, g.order, accepting)
	if err := attach(g.members[g.order[0]].fd, balance); err != nil {
		return fmt.Errorf("cannot steer the connections of %s: %w", g.listener, err)
	}
	return nil
}

// restore mends one slot's socket; look has come before it.
func (g *group) restore(slot int, accept []bool) (changed bool, err error) {
	m := &g.members[slot]
	if m.fd < 0 {
		return false, nil
	}
	state, err := inspect(m.fd)
	if err != nil {
		return false, fmt.Errorf("cannot inspect the socket of slot %d on %s: %w", slot, g.listener, err)
	}
	if state.listens && state.backlog == m.backlog {
		return false, nil
	}
	if !state.listens {
		if err := disconnect(m.fd); err != nil {
			return false, fmt.Errorf("cannot reset the socket of slot %d on %s: %w", slot, g.listener, err)
		}
	}
	if m.backlog, err = listen(m.fd, g.listener.Backlog); err != nil {
		return false, fmt.Errorf("cannot listen again on slot %d of %s: %w", slot, g.listener, err)
	}
	if state.listens {
		return true, nil
	}
	g.order.join(slot)
	return true, g.steer(accept)
}

func (g *group) queue(slot int) (waiting int, listens bool) {
	if g.members[slot].fd < 0 {
		return 0, false
	}
	state, err := inspect(g.members[slot].fd)
	return state.queue, err == nil && state.listens
}

// closeSlot shuts the socket down before it closes it: a copy in a process that
// outlived its worker would keep the queue hanging and go on taking its share.
// For the microseconds until the program knows that the last socket has moved,
// the kernel's own hash places that one's clients.
func (g *group) closeSlot(slot int, accept []bool) error {
	fd := g.members[slot].fd
	if fd < 0 {
		return nil
	}
	g.look()
	if slices.Contains(g.order, slot) {
		unix.Shutdown(fd, unix.SHUT_RDWR) // fails only where a worker has just done it
		g.order.leave(slot)
	}
	unix.Close(fd)
	g.members[slot].fd = -1
	return g.steer(accept)
}

func (g *group) close() {
	for slot, m := range g.members {
		if m.fd >= 0 {
			unix.Close(m.fd)
			g.members[slot].fd = -1
		}
	}
	g.order = nil
}
