package sockets

import "slices"

// Leaving watches the connections that were half-open when a slot began to leave: their
// last packet still brings them to its queue.
type Leaving struct {
	ports  []int
	waited map[tuple]bool // nil before the first look
}

// Leave begins to watch the slot. Called after Steer has excluded it.
func (s *Set) Leave(slot int) *Leaving {
	l := &Leaving{}
	for _, b := range s.bound {
		if m := b.user(slot); m != nil && b.at.path == "" && len(b.usersOf(m)) == 1 { // else others serve what it leaves
			if _, port := b.actual(slot); !slices.Contains(l.ports, port) {
				l.ports = append(l.ports, port)
			}
		}
	}
	return l
}

// HalfOpen reports whether connections that were half-open when leave was called still
// are, those of the listener's other slots included: the kernel does not tell their slot. A silent client's
// stays for about a minute (tcp_synack_retries). It takes milliseconds where there are many
// connections, and can be called from any goroutine, one at a time.
func (l *Leaving) HalfOpen() (bool, error) {
	now := map[tuple]bool{}
	for _, port := range l.ports {
		err := dumpTCP([]int{port}, halfOpenStates, func(said []byte) {
			if t := tuple(said[inetDiagAddress:]); l.waited == nil || l.waited[t] {
				now[t] = true
			}
		})
		if err != nil {
			return false, err
		}
	}
	l.waited = now
	return len(now) > 0, nil
}
