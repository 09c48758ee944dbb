package pool

import "slices"

// View is a snapshot of a Pool.
type View struct {
	State      string // "starting", "ready", "draining", "stopping"
	Up         bool   // it has come up once
	Stopping   bool   // or about to be
	Draining   bool   // the host is advertised as draining
	FallsBack  bool   // at the start, to the release that served last, if nothing of this one gets ready
	Generation int
	Wanted     int    // slots
	Ready      int    // of these, with a ready worker
	Why        string // no worker serves: how the newest one ended, or why the app ends
	Roll       *RollProgress
	LastRoll   *RollEnded
	Slots      []Slot
}

// View returns a snapshot. Later steps do not change it.
func (p *Pool) View() View {
	v := p.Summary()
	v.Slots = make([]Slot, len(p.slots))
	for i, s := range p.slots {
		c := *s
		c.Workers = slices.Clone(s.Workers)
		for i, w := range c.Workers {
			c.Workers[i] = new(*w)
		}
		v.Slots[i] = c
	}
	return v
}

// Summary is a View without Slots, which costs little.
func (p *Pool) Summary() View {
	v := View{Up: p.up, Stopping: p.Stopping() || p.exited, Draining: p.hostDrain, FallsBack: !p.up && (p.fallback.ready || p.fallback.to != 0), Generation: max(1, p.current), Wanted: p.wanted}
	if p.roll != nil {
		v.Roll = new(p.rollProgress())
	}
	if p.lastRoll.Generation != 0 {
		v.LastRoll = new(p.lastRoll)
	}
	for _, s := range p.slots {
		if s.ready() && s.Index < p.wanted {
			v.Ready++
		}
	}
	switch {
	case p.stop != stopNone || p.exited:
		v.State = "stopping"
	case p.hostDrain || p.standby:
		v.State = "draining"
	case p.up && v.Ready > 0:
		v.State = "ready"
	default: // no worker serves, at the start or later
		v.State = "starting"
	}
	if v.Why = p.failure; v.State == "starting" {
		v.Why = p.anyFailure()
	}
	return v
}

// Stopping reports whether a stop is in progress or about to begin.
func (p *Pool) Stopping() bool { return p.stop != stopNone || !p.stopAt.IsZero() }

// Standby reports whether no workers are wanted until the next roll.
func (p *Pool) Standby() bool { return p.standby }

// Requested returns the generation of the roll that RollRequested has just asked
// for; 0: the app is stopping.
func (p *Pool) Requested() int {
	switch {
	case p.Stopping():
		return 0
	case p.requested || p.roll == nil:
		return p.last + 1
	default:
		return p.roll.to
	}
}

// Preparing reports whether a roll, or the fallback, waits for Prepared of the generation.
func (p *Pool) Preparing(generation int) bool {
	return p.roll != nil && p.roll.to == generation && p.roll.phase == RollPreparing || generation == p.fallback.to
}

// Serves reports whether a generation's listeners must stay open: slots run it or may be
// given it, or a worker of it serves.
func (p *Pool) Serves(generation int) bool {
	return generation == p.current || p.roll != nil && (generation == p.roll.from || generation == p.roll.to) ||
		slices.ContainsFunc(p.slots, func(s *Slot) bool { return s.Generation == generation || s.serving(generation) != nil })
}

// Leaving reports whether the slot is being removed.
func (s *Slot) Leaving() bool { return s.leaving.asked }
