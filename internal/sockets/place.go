package sockets

import (
	"iter"
	"strconv"
)

// place is one address that is served, in one way. Every lineup that wants it
// has the same place.
type place struct {
	bound
	want     spot     // as it was asked for; the port may be 0
	spot     spot     // where it is
	settings Listener // of the latest lineup that has it
}

// bound is the sockets of a place: what differs between the modes. A slot is
// open from open to closeSlot.
type bound interface {
	// open makes the slot's socket if it has none. In a group it gets no connection
	// before that is steered.
	open(slot int) error
	// file returns the slot's socket, -1 where it is not open.
	file(slot int) int
	// actual returns the mode and the port that the slot is served with.
	actual(slot int) (mode string, port int)
	// configure takes over another name, balance, backlog and permissions.
	configure(l Listener)
	// mend undoes what a worker did to the slot's socket, and says what that was.
	mend(slot int) (undone string, err error)
	// reset sets the options of the slot's socket back; no worker has it.
	reset(slot int) (changed []string, err error)
	queue(slot int) (waiting int, listens bool)
	closeSlot(slot int) error
	// leaving returns where half-open connections of the slot's are found.
	leaving(slot int) (e endpoint, own bool)
	// all returns the open sockets, those for all slots as slot 0's.
	all() iter.Seq2[int, *socket]
	// finish gives up every socket, but those of a socket unit: these are taken from
	// the place first, with giveBack. A worker that drains still may hold one: it
	// ends with the worker's own copy, and what is queued there is served or reset
	// then. Ended under it, its accept would fail, and many programs with that.
	finish()
	// giveBack lets go of the passed sockets, in the kernel's order where that
	// matters, and leaves the place without them.
	giveBack() []*passed
	// close gives up the descriptors.
	close()
}

// serves reports whether the place is what a listener asks for.
func (p *place) serves(want spot, l Listener) bool {
	if want.path == "" && want.end.port == 0 {
		return p.want.same(want) && p.settings.Name == l.Name
	}
	return p.want.same(want) || p.spot.same(want)
}

// storeName is what the fd store knows a socket by.
func storeName(listener string, slot int) string { return listener + "." + strconv.Itoa(slot) }

// grow makes a list long enough to have an entry for the slot.
func grow[T any](list []T, slot int, empty func() T) []T {
	for len(list) <= slot {
		list = append(list, empty())
	}
	return list
}
