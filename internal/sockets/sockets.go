// Package sockets holds the listening sockets of an app: one per listener and
// slot, bound by the master, kept for as long as the slot exists and handed to
// every worker of that slot.
//
// The sockets of one listener form a reuseport group (socket(7)), and a classic
// BPF program on the group picks the slot of each new connection among those
// that accept. The invariant: while a slot is open its sockets are too, whether
// it has a worker or not, so that the master's side never resets a connection
// that the kernel has queued. (A worker that calls shutdown(2) on them does.)
//
// The package knows nothing of workers and never accepts, reads or closes a
// connection. It keeps raw descriptors and never a net.Listener or an os.File,
// because those change O_NONBLOCK, which every holder of a socket shares.
package sockets

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// The values of Listener.Balance.
const (
	BalanceHash   = "hash"   // by client address and port: connections spread evenly
	BalanceSource = "source" // by client address: one client, one slot
)

// Listener is one address that the app serves.
type Listener struct {
	Name        string // unique in the app
	Network     string // "tcp": dual-stack, v4 only where the host has no v6; "tcp4"; "tcp6": v6 only
	Host        string // address or name, "": every address of the host
	Port        int    // 0: one that the kernel picks, the same for all slots
	Balance     string // BalanceHash, BalanceSource
	Backlog     int    // of each slot's socket; the kernel cuts it to net.core.somaxconn
	Nonblocking bool   // O_NONBLOCK at the start; never touched again
}

// maxSlots is how many the steering program has room for, whatever their order.
const maxSlots = 1024

// Set is every socket of an app. It has one owner: its methods must not be
// called from two goroutines at once. All but Open are short system calls.
type Set struct {
	groups []*group
	accept []bool // by slot, as Steer was last told
}

// Open resolves the addresses (a host name may take seconds), binds every
// socket and listens. Every slot accepts until Steer says otherwise. When it
// fails it has closed what it had opened; the error says what to do, and is a
// *HeldError where somebody else has the port. slots is 1 to 1024.
func Open(ls []Listener, slots int) (*Set, error) {
	if slots < 1 || slots > maxSlots {
		return nil, fmt.Errorf("cannot open the sockets of %d slots: 1 to %d can be steered", slots, maxSlots)
	}
	ends, err := resolveAll(ls)
	if err != nil {
		return nil, err
	}
	s := &Set{accept: slices.Repeat([]bool{true}, slots)}
	for i, l := range ls {
		g, err := openGroup(l, ends[i], slots)
		if err != nil {
			s.Close()
			return nil, explainLimit(err, len(ls)*slots)
		}
		s.groups = append(s.groups, g)
	}
	if err := s.Steer(s.accept); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Files returns the slot's sockets in the order of the listeners, binding them
// again if CloseSlot had closed them; such a slot gets no connection before
// Steer, called after CloseSlot, says that it accepts. The descriptors stay the Set's: the caller passes
// them to a worker and neither closes them nor keeps them past CloseSlot.
func (s *Set) Files(slot int) ([]int, error) {
	fds := make([]int, 0, len(s.groups))
	for _, g := range s.groups {
		if g.members[slot].fd < 0 {
			if err := g.reopen(slot, s.accept); err != nil {
				return nil, explainLimit(err, len(s.groups))
			}
		}
		fds = append(fds, g.members[slot].fd)
	}
	return fds, nil
}

// Steer says which slots may get new connections, one entry per slot. Where
// none of them can, all open slots get some. What waits in a queue stays there.
func (s *Set) Steer(accept []bool) error {
	if len(accept) != len(s.accept) {
		return fmt.Errorf("cannot steer: %d entries for %d slots", len(accept), len(s.accept))
	}
	s.accept = slices.Clone(accept)
	var failed error
	for _, g := range s.groups {
		g.look()
		failed = first(failed, g.steer(s.accept))
	}
	return failed
}

// Restore undoes what a worker did to the slot's sockets: it listens again on
// one that was shut down, and sets the backlog that was configured where it was
// changed. Called when a worker has become ready, and when one has ended. It
// reports whether there was anything to undo. The queue of a socket that was
// shut down is lost; that of one with another backlog is not.
func (s *Set) Restore(slot int) (changed bool, err error) {
	for _, g := range s.groups {
		g.look()
		undone, failed := g.restore(slot, s.accept)
		changed, err = changed || undone, first(err, failed)
	}
	return changed, err
}

// RestoreAll does the same for every slot, with two system calls for each
// socket, and returns the slots in which there was something to undo.
func (s *Set) RestoreAll() (changed []int, err error) {
	for _, g := range s.groups {
		g.look()
		for slot := range g.members {
			undone, failed := g.restore(slot, s.accept)
			if err = first(err, failed); undone && !slices.Contains(changed, slot) {
				changed = append(changed, slot)
			}
		}
	}
	return changed, err
}

// Queue counts the connections that wait to be accepted in the slot's sockets.
// It is false where no socket of the slot listens.
func (s *Set) Queue(slot int) (waiting int, known bool) {
	for _, g := range s.groups {
		if n, listens := g.queue(slot); listens {
			waiting, known = waiting+n, true
		}
	}
	return waiting, known
}

// CloseSlot ends a slot's sockets for every holder and resets what is queued.
// Called when the slot has failed for good or has left, after Steer has led new
// connections elsewhere. A slot closed already stays so. An error is about
// steering the others: the slot is closed all the same.
func (s *Set) CloseSlot(slot int) error {
	s.accept[slot] = false
	var failed error
	for _, g := range s.groups {
		failed = first(failed, g.closeSlot(slot, s.accept))
	}
	return failed
}

// Close gives up the Set's descriptors, at the master's end. A worker that is
// still alive goes on serving from its own copies.
func (s *Set) Close() {
	for _, g := range s.groups {
		g.close()
	}
}

// Listeners returns the listeners as they were opened, with the actual ports.
func (s *Set) Listeners() []Listener {
	ls := make([]Listener, 0, len(s.groups))
	for _, g := range s.groups {
		ls = append(ls, g.listener)
	}
	return ls
}

// Port returns the actual port of a listener, 0 if there is none of that name.
func (s *Set) Port(name string) int {
	for _, g := range s.groups {
		if g.listener.Name == name {
			return g.listener.Port
		}
	}
	return 0
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// explainLimit turns EMFILE and ENFILE into advice. It runs after the sockets
// opened so far are closed: it needs descriptors to count them.
func explainLimit(err error, sockets int) error {
	switch {
	case errors.Is(err, syscall.EMFILE):
		var limit syscall.Rlimit
		if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
			return err
		}
		return fmt.Errorf("%w: the sockets need %d descriptors beside the %d in use, and the limit is %d: raise `ulimit -n`, or LimitNOFILE= in a systemd unit",
			err, sockets, openFiles(), limit.Cur)
	case errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("%w: the sockets need %d descriptors, and the whole host has run out: raise fs.file-max with sysctl", err, sockets)
	default:
		return err
	}
}
