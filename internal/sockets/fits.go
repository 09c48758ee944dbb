package sockets

import "fmt"

// Fits returns why the set could not have so many slots. It compares the app's own
// listeners; whether somebody else has a port is known when it is bound.
func (l *ListenerSet) Fits(slots int) error {
	if slots < 1 || slots > maxSlots {
		return fmt.Errorf("cannot have %s: 1 to %d can be steered", count(slots, "slot"), maxSlots)
	}
	for _, b := range l.bound {
		if b.at.mode != ModeEach {
			continue
		}
		grown := b.takes(slots)
		if first, last := grown.end.port, grown.end.port+grown.ports-1; last > maxPort {
			return fmt.Errorf("cannot have %s: listener %q takes a port for each, %d to %d, and %d is the last: at most %d slots",
				count(slots, "slot"), b.listener.Name, first, last, maxPort, maxPort-first+1)
		}
		for _, other := range l.set.bound {
			taken := other.takes(1)
			if l.has(other) {
				taken = other.takes(slots)
			}
			if other != b && grown.overlap(taken) != "" {
				return fmt.Errorf("cannot have %s: listener %q takes a port for each, %d to %d, and listener %q has port %d: give one another port",
					count(slots, "slot"), b.listener.Name, grown.end.port, grown.end.port+slots-1, other.listener.Name, max(grown.end.port, taken.end.port))
			}
		}
	}
	return nil
}

// takes is the address with the ports of so many slots, and of all that it has by now.
func (b *boundAddress) takes(slots int) bindAddr {
	at := b.at
	if at.mode == ModeEach {
		at.ports = slots
		for slot := range b.all() {
			at.ports = max(at.ports, slot+1)
		}
	}
	return at
}
