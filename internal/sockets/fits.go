package sockets

import "fmt"

// Fits reports whether the lineup could have so many slots: nil, or what stands
// in the way. It looks at what the app itself has; whether somebody else has a
// port is known when it is bound.
func (l *ListenerSet) Fits(slots int) error {
	if slots < 1 || slots > maxSlots {
		return fmt.Errorf("cannot have %s: 1 to %d can be steered", count(slots, "slot"), maxSlots)
	}
	for _, p := range l.places {
		if p.spot.mode != ModeEach {
			continue
		}
		grown := p.takes()
		grown.ports = max(grown.ports, slots)
		if first, last := grown.end.port, grown.end.port+grown.ports-1; last > maxPort {
			return fmt.Errorf("cannot have %s: listener %q takes a port for each, %d to %d, and %d is the last: at most %d slots",
				count(slots, "slot"), p.settings.Name, first, last, maxPort, maxPort-first+1)
		}
		for _, other := range l.set.places {
			taken := other.takes()
			if l.has(other) && taken.mode == ModeEach {
				taken.ports = max(taken.ports, slots)
			}
			if other != p && grown.overlaps(taken) {
				return fmt.Errorf("cannot have %s: listener %q takes a port for each, %d to %d, and listener %q has port %d: give one another port",
					count(slots, "slot"), p.settings.Name, grown.end.port, grown.end.port+slots-1, other.settings.Name, max(grown.end.port, taken.end.port))
			}
		}
	}
	return nil
}

// takes is where the place is, with the ports of all slots that it has by now.
func (p *place) takes() spot {
	at := p.spot
	if at.mode == ModeEach {
		at.ports = 1
		for slot := range p.all() {
			at.ports = max(at.ports, slot+1)
		}
	}
	return at
}
