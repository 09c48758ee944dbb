package pool

import (
	"fmt"
	"slices"
	"time"
)

// stalled notes that a ready worker takes no connections although some wait. It is
// steered round at once, and replaced if it is still so after health.stall more.
func (p *Pool) stalled(w *Worker) {
	stall := p.of(w.ID.Generation).Health.Stall
	if w.State != StateReady || w.Stalled || stall <= 0 {
		return
	}
	w.Stalled = true
	w.replaceAt = p.now.Add(stall)
	p.do(WorkerStalled{ID: w.ID, Stalled: true, Why: fmt.Sprintf("connections wait, and it has accepted none for %s", stall)})
}

func (p *Pool) accepted(w *Worker) {
	if !w.Stalled {
		return
	}
	w.Stalled = false
	w.replaceAt = time.Time{}
	p.forgetStalls(func(r *replacement) bool { return r.id == w.ID })
	p.do(WorkerStalled{ID: w.ID, Why: "it accepts connections again"})
}

// forgetStalls removes requests of the pool's own that have not begun.
func (p *Pool) forgetStalls(which func(*replacement) bool) {
	p.replacements = slices.DeleteFunc(p.replacements, func(r *replacement) bool { return r.stalled && !r.begun && which(r) })
}

// weighStalls finds overload. If at least two workers and half of all are stalled, there
// is more to do than they can: then nothing is done about it until fewer are, who get
// the time until they are replaced once more.
func (p *Pool) weighStalls() {
	stalled, of := 0, 0
	for _, s := range p.slots {
		if s.ready() && !s.leaving.asked {
			of++
			if s.stalled() {
				stalled++
			}
		}
	}
	overloaded := stalled >= 2 && 2*stalled >= of
	if overloaded == p.overloaded {
		return
	}
	p.overloaded = overloaded
	if overloaded {
		p.forgetStalls(func(*replacement) bool { return true })
		p.do(Overloaded{Stalled: stalled, Of: of})
		return
	}
	p.workers(func(_ *Slot, w *Worker) {
		if w.Stalled && w.State == StateReady {
			w.replaceAt = p.now.Add(p.of(w.ID.Generation).Health.Stall)
		}
	})
}

// replaceStalled asks for the replacement of workers that are still stalled.
func (p *Pool) replaceStalled() {
	p.workers(func(s *Slot, w *Worker) {
		if !due(p.stallDeadline(s, w), p.now) {
			return
		}
		w.replaceAt = time.Time{}
		if p.request(w.ID) == nil {
			why := "stalled: it took none of the connections that wait"
			p.replacements = append(p.replacements, &replacement{
				id: w.ID, cause: CauseStalled, why: why, abort: p.of(w.ID.Generation).Health.Abort, stalled: true,
			})
		}
	})
}

// stallDeadline is when a stalled worker is to be replaced; zero: not now.
func (p *Pool) stallDeadline(s *Slot, w *Worker) time.Time {
	if w.State != StateReady || p.overloaded || p.irreplaceable(s, w) != "" {
		return time.Time{}
	}
	return w.replaceAt
}

// steerRound reports whether a slot gets no new connections since its worker has
// stalled and another one can take them.
func (p *Pool) steerRound(s *Slot) bool {
	return s.stalled() && !p.overloaded && slices.ContainsFunc(p.slots, func(other *Slot) bool {
		return other.ready() && !other.stalled() && !other.leaving.asked
	})
}
