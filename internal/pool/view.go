package pool

import "slices"

// View is a copy of a Pool for people to read.
type View struct {
	State      string // "starting", "ready", "stopping"
	Generation int
	Wanted     int
	Ready      int // slots with a ready worker
	Roll       *RollMoved
	LastRoll   *RollEnded
	Slots      []Slot
}

// View returns a copy that later steps do not change.
func (p *Pool) View() View {
	v := View{State: "starting", Generation: p.generation(), Wanted: len(p.slots)}
	switch {
	case p.stop != stopNone || p.exited:
		v.State = "stopping"
	case p.up:
		v.State = "ready"
	}
	if p.roll != nil {
		m := p.rollMoved()
		v.Roll = &m
	}
	if p.lastRoll.Generation != 0 {
		last := p.lastRoll
		v.LastRoll = &last
	}
	for _, s := range p.slots {
		c := *s
		c.Workers = slices.Clone(s.Workers)
		for i, w := range c.Workers {
			copied := *w
			c.Workers[i] = &copied
		}
		v.Slots = append(v.Slots, c)
		if s.ready() {
			v.Ready++
		}
	}
	return v
}

// Up reports whether the app has come up: all slots ready, or some when
// ready.timeout was over.
func (p *Pool) Up() bool { return p.up }

// Stopping reports whether a stop is under way.
func (p *Pool) Stopping() bool { return p.stop != stopNone }

// Requested returns the generation that serves a roll requested now: asked
// right after Step(RollRequested). It is 0 when the app is stopping.
func (p *Pool) Requested() int {
	switch {
	case p.stop != stopNone:
		return 0
	case p.requested || p.roll == nil:
		return p.last + 1
	default:
		return p.roll.to
	}
}

// generation is the newest that a slot runs; during a roll, what it started
// from.
func (p *Pool) generation() int {
	if p.roll != nil {
		return p.roll.from
	}
	newest := 0
	for _, s := range p.slots {
		newest = max(newest, s.Generation)
	}
	return newest
}
