package sockets

import "fmt"

// Fits returns why the set could not have so many slots. It compares the app's own
// listeners; whether somebody else has a port is known when it is bound.
func (l *ListenerSet) Fits(slots int) error {
	if slots < 1 || slots > maxSlots {
		return fmt.Errorf("cannot have %s: 1 to %d can be steered", count(slots, "slot"), maxSlots)
	}
	for _, p := range l.bound {
		if p.at.mode != ModeEach {
			continue
		}
		grown := p.takes()
		grown.ports = max(grown.ports, slots)
		if first, last := grown.end.port, grown.end.port+grown.ports-1; last > maxPort {
			return fmt.Errorf("cannot have %s: listener %q takes a port for each, %d to %d, and %d is the last: at most %d slots",
				count(slots, "slot"), p.listener.Name, first, last, maxPort, maxPort-first+1)
		}
		for _, other := range l.set.bound {
			taken := other.takes()
			if l.has(other) && taken.mode == ModeEach {
				taken.ports = max(taken.ports, slots)
			}
			if other != p && grown.overlap(taken) != "" {
				return fmt.Errorf("cannot have %s: listener %q takes a port for each, %d to %d, and listener %q has port %d: give one another port",
					count(slots, "slot"), p.listener.Name, grown.end.port, grown.end.port+slots-1, other.listener.Name, max(grown.end.port, taken.end.port))
			}
		}
	}
	return nil
}

// takes is the address with the ports of all slots that it has by now.
func (b *boundAddress) takes() bindAddr {
	at := b.at
	if at.mode == ModeEach {
		at.ports = 1
		for slot := range b.all() {
			at.ports = max(at.ports, slot+1)
		}
	}
	return at
}
