package sockets

import "slices"

func (s *Set) dropPassed() {
	unwanted := s.passed
	s.passed = nil
	for _, p := range unwanted {
		if p.unitOwned {
			s.notice("no listener is %s: it is not used, and systemd goes on listening there", p)
			p.close()
			continue
		}
		if p.isUnix() {
			stale := fileAt(p.at.path)
			stale.recognise(p.fd)
			stale.remove()
		}
		s.forget(p)
		p.end()
		s.notice("no listener is %s any more: closed", p)
	}
}

// Release closes the sockets that no other set has: they end with the last worker's copy.
// A unit-owned one is kept for a later set. Called when the workers that served there have
// been told to drain.
func (s *Set) Release(l *ListenerSet) {
	s.sets = filter(s.sets, func(other *ListenerSet) bool { return other != l })
	for slot, serving := range s.serving {
		if serving == l {
			s.serving[slot] = nil
		}
	}
	s.bound = slices.DeleteFunc(s.bound, func(b *boundAddress) bool {
		if !l.has(b) {
			return false
		}
		for _, other := range slices.Backward(s.sets) {
			if e := other.listenerAt(b); e != nil {
				b.reconfigure(e.asked)
				b.mode.settle()
				_ = b.mode.steer() // the next one reports an error
				return false
			}
		}
		b.drop(false, "listener %s is gone: systemd goes on listening on %s: stop its socket unit to free it")
		return true
	})
	s.store(s.bound) // under the names that they have now
}

// drop gives an address up that no set has any more. Without end it ends no socket: in a
// draining worker accept(2) would fail, and many programs with it. A unit-owned socket is
// kept for a later set, and the notice tells of it.
func (b *boundAddress) drop(end bool, notice string) {
	for _, given := range b.giveBack() {
		b.set.notice(notice, b.listener.Name, given.address())
		b.set.passed = append(b.set.passed, given)
	}
	if end {
		b.endAll()
	}
	for _, m := range b.all() {
		b.set.forget(m)
	}
	b.close()
}

// endAll ends the sockets of all slots at once, for every holder, but a unit's.
func (b *boundAddress) endAll() {
	b.users = nil
	if g, ok := b.mode.(*group); ok {
		g.leave()
	}
	for slot, m := range b.all() {
		if m.unitOwned {
			_ = b.mode.flush(m) // it stays as it is
			continue
		}
		b.set.forget(m)
		m.end()
		b.sockets[slot] = nil
	}
}
