package sockets

// Leaving watches the connections that were half open when a slot began to
// leave: their last packet still brings them to its queue.
type Leaving struct {
	ports  []int
	waited map[tuple]bool // nil before the first look
}

// Leave begins to watch the slot. Called after Steer has led new connections
// away from it.
func (s *Set) Leave(slot int) *Leaving {
	l := &Leaving{}
	for _, b := range s.bound {
		if m := b.user(slot); m != nil && b.at.path == "" && len(b.usersOf(m)) == 1 { // else others serve what it leaves
			_, port := b.actual(slot)
			l.ports = append(l.ports, port)
		}
	}
	return l
}

// HalfOpen reports whether connections of that time are still half open. The
// kernel does not say which slot they are to, so that those of the listener's
// other slots count too; later ones do not. One whose client has gone silent
// stays for about a minute (tcp_synack_retries): the caller bounds its patience,
// and asks until it gets false. It takes some milliseconds where there are many
// connections, and may be called from any goroutine, but from one at a time. The
// error says that the kernel cannot be asked.
func (l *Leaving) HalfOpen() (bool, error) {
	now := map[tuple]bool{}
	for _, port := range l.ports {
		tuples, err := halfOpen(port)
		if err != nil {
			return false, err
		}
		for _, t := range tuples {
			if l.waited == nil || l.waited[t] {
				now[t] = true
			}
		}
	}
	l.waited = now
	return len(now) > 0, nil
}
