package pool

import "slices"

// Takers are the ready workers which may take a draining worker's connections: its
// slot's next worker, or those of other slots if the slot leaves. There are none when
// the app stops.
func (p *Pool) Takers(id ID) (takers []ID) {
	if p.stop != stopNone || id.Slot >= len(p.slots) {
		return nil
	}
	ready := func(s *Slot) {
		for _, w := range slices.Backward(s.Workers) {
			if w.State == StateReady && w.serves() && w.ID != id {
				takers = append(takers, w.ID)
				return
			}
		}
	}
	if s := p.slots[id.Slot]; !s.leaving.asked {
		ready(s)
		return takers
	}
	for _, s := range p.slots {
		if !s.leaving.asked {
			ready(s)
		}
	}
	return takers
}
