package sockets

import (
	"fmt"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Program is a stream socket that a worker's program binds, or has bound.
type Program struct {
	Network     string         // "tcp", "unix"
	Address     netip.AddrPort // of TCP; may be v4-mapped; the port is not 0
	Path        string         // of unix: absolute
	V6, V6Only  bool           // it is of AF_INET6; IPV6_V6ONLY is set
	Nonblocking bool           // O_NONBLOCK
	Socket      int            // a copy of its descriptor, the caller's
}

// bindAddr is where the program wants to be; ok is false for an unknown zone.
func (p Program) bindAddr() (at bindAddr, ok bool) {
	if p.Network == "unix" {
		return bindAddr{path: filepath.Clean(p.Path)}, true
	}
	addr := p.Address.Addr().Unmap()
	at.end = endpoint{addr: addr.WithZone(""), port: int(p.Address.Port())}
	at.end.dual = p.V6 && !p.V6Only && addr == netip.IPv6Unspecified()
	if addr.Zone() != "" {
		var err error
		if at.end.scope, err = scope(addr.Zone()); err != nil {
			return at, false
		}
	}
	return at, true
}

// Overlaps reports whether two programs want an address that only one can have.
func (p Program) Overlaps(other Program) bool {
	a, known := p.bindAddr()
	b, bothKnown := other.bindAddr()
	return known && bothKnown && a.within(b, 0)
}

// within reports whether a slot of a listener there can have the program's address.
func (a bindAddr) within(at bindAddr, slot int) bool {
	if a.path != "" || at.path != "" {
		return a.path != "" && at.path != "" && samePath(a.path, at.path)
	}
	own := at.mode == ModeEach && a.end.port == at.end.port+slot
	return at.end.port != 0 && (own || a.end.port == at.end.port) && a.end.meets(at.end)
}

// samePath follows the links of the directory, as /var/run.
func samePath(a, b string) bool {
	if a == b || filepath.Base(a) != filepath.Base(b) {
		return a == b
	}
	one, err := os.Stat(filepath.Dir(a))
	other, err2 := os.Stat(filepath.Dir(b))
	return err == nil && err2 == nil && os.SameFile(one, other)
}

// Match finds the listener that has the program's address: the same port (the slot's own
// or the listener's in ModeEach), and the same address, or one of them a wildcard; the
// same path. An equal address goes before a wildcard.
func (l *ListenerSet) Match(slot int, p Program) (listener int, ok bool) {
	asks, ok := p.bindAddr()
	if !ok {
		return -1, false
	}
	for _, exact := range []bool{true, false} {
		for i, e := range l.served {
			for _, at := range []bindAddr{e.at, e.want} { // systemd's may be elsewhere
				if (!exact || asks.end.addr == at.end.addr) && asks.within(at, slot) {
					return i, true
				}
			}
		}
	}
	return -1, false
}

// Take returns the slot's socket of the program's family, with the program's O_NONBLOCK
// and the options that connections inherit; the backlog stays. A dual-stack listener gets
// a socket for a family that it has not, beside those that it has. The descriptor stays
// the Set's. by is who takes it, comparable, until Ended. The error says what to do.
//
// Connections that wait in a socket of another family stay there: Settle resets them.
func (l *ListenerSet) Take(slot, listener int, p Program, by any) (int, error) {
	s := l.set
	if slot < 0 || slot >= maxSlots || s.closed || !slices.Contains(s.sets, l) || listener < 0 || listener >= len(l.served) {
		return -1, fmt.Errorf("cannot give slot %d a socket: there is none", slot)
	}
	e := l.served[listener]
	b := l.familyOf(e, p)
	fresh := !l.has(b)
	if err := l.openSlot(b, slot); err != nil {
		if fresh && !slices.Contains(s.bound, b) {
			b.close()
			err = e.explainFamily(b, err)
		}
		return -1, err
	}
	if fresh {
		e.families = append(e.families, family{boundAddress: b})
		if !slices.Contains(s.bound, b) {
			s.bound = append(s.bound, b)
		}
	}
	at := slices.IndexFunc(e.families, func(f family) bool { return f.boundAddress == b })
	e.families[at].taken = true
	e.passTaken()
	s.busy[slot] = true // Files is not called where listeners are learned
	if b.takers.add(by, taker{slot, l}) {
		if err := b.mode.steer(); err != nil {
			return -1, err
		}
	}
	s.store(l.bound())
	fd := b.mode.fileFor(b.user(slot), l)
	return fd, b.user(slot).imitate(fd, p)
}

// familyOf returns the address of the program's family, which the listener may not have
// yet. One that is not dual-stack has only one.
func (l *ListenerSet) familyOf(e *served, p Program) *boundAddress {
	want := e.at
	if all := e.at.families(); len(all) > 1 {
		switch {
		case !p.V6:
			want = all[1]
		case p.V6Only:
			want = all[2]
		}
	}
	for _, b := range append(l.bound(), l.set.bound...) {
		if b.at.same(want) {
			return b
		}
	}
	b := l.set.newAddress(e.families[0].listener, want, true, nil)
	b.uid, b.learned = e.families[0].uid, e.families[0].learned
	return b
}

// passTaken has a family that a program has taken, if there is one, be the first: it is passed
// to the next workers.
func (e *served) passTaken() {
	at := slices.IndexFunc(e.families, func(f family) bool { return f.taken })
	if at > 0 {
		e.families[0], e.families[at] = e.families[at], e.families[0]
	}
}

// explainFamily turns an error of binding beside a socket unit's socket into advice.
func (e *served) explainFamily(b *boundAddress, err error) error {
	for _, f := range e.families {
		for _, m := range f.all() {
			if m.unitOwned {
				return fmt.Errorf("cannot listen on %s, which the program asks for, beside %s: write ListenStream=%s into the socket unit: %w", b.at.end, m, b.at.end, err)
			}
		}
	}
	return err
}

// Beside reports whether a program's own socket can be bound where one of the slot's is that
// the program has listened on, known by its cookie (SO_COOKIE): both have SO_REUSEPORT, and
// one user (socket(7)).
func (l *ListenerSet) Beside(slot, listener int, p Program, listened []uint64) bool {
	for m := l.familyOf(l.served[listener], p).user(slot); m != nil; m = m.next {
		if slices.Contains(listened, m.cookie) {
			own, shared := sharer(m.fd)
			user, too := sharer(p.Socket)
			return shared && too && own == user
		}
	}
	return false
}

// sharer is the user whose sockets can be bound on the socket's port, if any can.
func sharer(fd int) (uid uint32, ok bool) {
	on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT)
	var stat unix.Stat_t
	ok = err == nil && on != 0 && unix.Fstat(fd, &stat) == nil
	return stat.Uid, ok
}

// Find returns the listener of the slot's socket with that cookie (SO_COOKIE).
func (l *ListenerSet) Find(slot int, cookie uint64) (listener int, ok bool) {
	for i, e := range l.served {
		for m := range e.socketsOf(slot) {
			if m.cookie == cookie {
				return i, true
			}
		}
	}
	return -1, false
}

// Inodes are those of the sockets that the slot's workers can have from the set.
func (l *ListenerSet) Inodes(slot int) (all []uint64) {
	for _, e := range l.served {
		for m := range e.socketsOf(slot) {
			all = append(all, inode(m.fd))
		}
	}
	return all
}

// socketsOf yields the slot's sockets, and those that are to replace one.
func (e *served) socketsOf(slot int) iter.Seq[*socket] {
	return func(yield func(*socket) bool) {
		for _, f := range e.families {
			for m := f.user(slot); m != nil; m = m.next {
				if !yield(m) {
					return
				}
			}
		}
	}
}

// Settle ends, of each listener of which a program has taken a family, the families that
// none has taken, for every holder of their sockets and with what waits in them: nobody
// would accept it, and a client that is refused can try the other family. One that another
// set has stays until that is released. Called when a worker of the set is ready.
func (l *ListenerSet) Settle() {
	l.retain(true, func(e *served, f family) bool { return f.taken || !e.families[0].taken })
}

// Unlearn drops the learned listeners of which no program of the set has taken a socket, and
// returns them: they end with the last worker that has one. Called when all workers of the
// set are ready.
func (l *ListenerSet) Unlearn() (unused []Listener) {
	return l.retain(false, func(e *served, f family) bool { return f.taken || !e.asked.Learned })
}

// retain gives up the families that are not kept, unless another set has them; end: for every
// holder of their sockets. It returns the listeners that have none left.
func (l *ListenerSet) retain(end bool, keep func(*served, family) bool) (unused []Listener) {
	var dropped []*boundAddress
	l.served = filter(l.served, func(e *served) bool {
		kept := filter(e.families, func(f family) bool {
			stays := keep(e, f)
			if !stays {
				dropped = append(dropped, f.boundAddress)
			}
			return stays
		})
		if e.families = kept; len(kept) == 0 {
			unused = append(unused, e.asked)
			return false
		}
		e.passTaken()
		return true
	})
	for _, b := range dropped {
		if slices.ContainsFunc(l.set.sets, func(other *ListenerSet) bool { return other.has(b) }) {
			_ = b.mode.steer() // the next one reports an error
			continue
		}
		l.set.bound = filter(l.set.bound, func(other *boundAddress) bool { return other != b })
		b.drop(end, "listener %s: its program has not asked for all that systemd listens on, and nobody serves %s: write the program's address into the socket unit's ListenStream=")
	}
	if len(dropped) > 0 {
		l.set.store(l.set.bound)
	}
	return unused
}

// deserted reports whether no slot serves the address any more, while some serve the same
// listener in another family: in a roll the new program has asked for that.
func (s *Set) deserted(b *boundAddress) bool {
	var want *bindAddr
	for _, l := range s.sets {
		if e := l.listenerAt(b); e != nil {
			want = &e.want
		}
	}
	return want != nil && !slices.ContainsFunc(s.serving, func(l *ListenerSet) bool { return l.has(b) }) &&
		slices.ContainsFunc(s.serving, func(l *ListenerSet) bool {
			return l != nil && slices.ContainsFunc(l.served, func(e *served) bool { return e.want.same(*want) })
		})
}

// shareAll lets others of this user be bound beside the Set's sockets on a port.
func (s *Set) shareAll(port int) {
	for _, m := range s.all() {
		if m.at.end.port == port {
			_ = share(m.fd) // without, bind fails
		}
	}
}
