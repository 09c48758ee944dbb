package sockets

import (
	"fmt"
	"net/netip"
	"slices"
)

// Other is another program's socket that began to listen on a listener's port, or ceased to.
type Other struct {
	Listener Listener
	ID       uint64 // no other socket has it, ever
	Gone     bool

	at     netip.AddrPort
	inode  uint64
	uid    uint32
	within bool // it is in the listener's group, and so gets nothing
}

// Consequence says what it means for the app's clients.
func (o Other) Consequence() string {
	switch {
	case o.Gone:
		return fmt.Sprintf("it no longer listens on %s", o.at)
	case o.within:
		return fmt.Sprintf("it listens on %s beside the app, and gets none of its connections", o.at)
	default:
		return fmt.Sprintf("it listens on %s beside the app, and takes the clients of that address: stop it", o.at)
	}
}

// Holders finds the processes of sockets that have come, by their IDs. It reads all of
// /proc, and can be called from any goroutine.
func Holders(others []Other) map[uint64]Holder {
	owners := map[uint64]uint32{} // uid by inode
	for _, o := range others {
		if !o.Gone {
			owners[o.inode] = o.uid
		}
	}
	if len(owners) == 0 {
		return nil
	}
	found, holders := holdersOf(owners), map[uint64]Holder{}
	for _, o := range others {
		holders[o.ID] = Holder{UID: o.uid}
		if at := slices.IndexFunc(found, func(h Holder) bool { return slices.Contains(h.Sockets, o.inode) }); at >= 0 {
			holders[o.ID] = found[at]
		}
	}
	return holders
}

// losesTo reports whether a socket outside the group gets connections for e: the kernel
// prefers the exact address, and on a dual-stack port IPv4.
func (e endpoint) losesTo(k groupKey) bool {
	return e.meets(k.endpoint()) && (k.nic != 0 || e.addr.IsUnspecified() && (!k.addr.IsUnspecified() || e.dual && k.addr.Is4()))
}

// endpoint is where they are, without the port.
func (k groupKey) endpoint() endpoint {
	e := endpoint{addr: k.addr, dual: k.addr == netip.IPv6Unspecified() && !k.only}
	if k.addr.IsLinkLocalUnicast() {
		e.scope = k.nic
	}
	return e
}

func (s *Set) note(o Other) {
	if len(s.others) < maxNotices {
		s.others = append(s.others, o)
	}
}

// owns reports whether a socket is or was one of the Set's.
func (s *Set) owns(id uint64) bool {
	return s.former[id] || slices.ContainsFunc(s.all(), func(m *socket) bool { return m.cookie == id })
}

// Disown remembers sockets, by their cookies (SO_COOKIE), that only workers will have, or
// leftovers have: they are no Others.
func (s *Set) Disown(cookies ...uint64) {
	if s.former == nil || len(s.former) >= 4*maxSlots {
		s.former = map[uint64]bool{}
	}
	for _, c := range cookies {
		s.former[c] = true
	}
}
