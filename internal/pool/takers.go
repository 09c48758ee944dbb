package pool

// Takers are the ready workers which may take a draining worker's connections: its
// slot's next worker, or those of other slots if the slot leaves. There are none when
// the app stops.
func (p *Pool) Takers(id ID) (takers []ID) {
	if p.stop != stopNone || id.Slot >= len(p.slots) {
		return nil
	}
	ready := func(s *Slot) {
		if w := s.serving(0); w != nil && w.State == StateReady && w.ID != id {
			takers = append(takers, w.ID)
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
