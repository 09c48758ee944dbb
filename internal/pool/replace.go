package pool

import (
	"fmt"
	"slices"
	"time"
)

// replacement is the request to replace a worker by a new one of the same generation.
// At most one has begun, over the whole app, and only while no roll starts workers.
type replacement struct {
	id      ID
	cause   Cause
	why     string
	abort   bool // it gets SIGABRT in place of its stop signal
	stalled bool // the pool itself asks for it
	begun   bool
	by      ID // the successor, once it has been started
	fault   Fault
}

func (p *Pool) replaceRequested(s *Slot, w *Worker, ev ReplaceRequested) {
	if r := p.request(w.ID); r != nil { // one answer is for both
		if r.stalled || ev.Abort && !r.abort {
			r.cause, r.why = ev.Cause, ev.Why
		}
		r.stalled, r.abort = false, r.abort || ev.Abort
		return
	}
	if why := p.irreplaceable(s, w); why != "" {
		p.do(Replaced{ID: w.ID, Cause: ev.Cause, Why: ev.Why, Err: why})
		return
	}
	p.replacements = append(p.replacements, &replacement{id: w.ID, cause: ev.Cause, why: ev.Why, abort: ev.Abort})
}

// irreplaceable says why a worker is not to be replaced; "": it may be.
func (p *Pool) irreplaceable(s *Slot, w *Worker) string {
	switch {
	case p.Stopping():
		return "the app is stopping"
	case p.standby:
		return "the app is in standby"
	case s.leaving.asked:
		return "its slot is being removed"
	case !w.serves():
		return "it drains already"
	default:
		return ""
	}
}

// endReplacements answers the requests that are over.
func (p *Pool) endReplacements() {
	for _, r := range slices.Clone(p.replacements) {
		if p.request(r.id) != r {
			continue // its worker was the successor of an earlier one
		}
		if over, err := p.replaced(r); over {
			p.answer(r, err)
		}
	}
}

func (p *Pool) beginReplacement() {
	if p.roll != nil || p.begun() != nil {
		return
	}
	for _, r := range p.replacements {
		s, w := p.find(r.id)
		if w == nil || w.State != StateReady || s.serving(s.Generation) != w {
			continue // it is not ready yet
		}
		r.begun = true
		if p.of(w.ID.Generation).Update.Order == StopFirst {
			p.retireReplaced(r, s, w) // converge starts its successor
		} else {
			p.start(s)
		}
		return
	}
}

// begun returns the replacement that has begun; nil: none.
func (p *Pool) begun() *replacement {
	return p.replacementThat(func(r *replacement) bool { return r.begun })
}

func (p *Pool) replacementThat(is func(*replacement) bool) *replacement {
	if i := slices.IndexFunc(p.replacements, is); i >= 0 {
		return p.replacements[i]
	}
	return nil
}

// replaced reports whether a replacement is over, and why it has failed. The worker
// serves until its successor is ready, unless the order is stop-first or it ends by
// itself: then the slot has to get a ready worker, be it by a roll.
func (p *Pool) replaced(r *replacement) (over bool, err string) {
	s, w := p.find(r.id)
	by := p.successor(r)
	switch {
	case p.Stopping():
		p.abandon(r, ReasonStop) // the stop itself may be some time off
		return true, "the app is stopping"
	case p.standby:
		return true, "the app goes to standby"
	case s.leaving.asked:
		p.abandon(r, ReasonScale)
		return true, "its slot is being removed"
	case !r.begun:
		return false, ""
	case w == nil || !w.serves():
		if lost := by == nil && r.by != (ID{}) || s.over(); lost && !s.settled() {
			return true, p.successorFailed(r, s)
		}
		return s.settled(), ""
	case by == nil:
		if w.Stalled {
			w.replaceAt = p.now.Add(p.of(w.ID.Generation).Health.Stall)
		}
		return true, p.successorFailed(r, s)
	case by.State == StateReady:
		p.retireReplaced(r, s, w)
		return true, ""
	case p.roll != nil && p.roll.phase != RollPreparing:
		p.abandon(r, ReasonRoll)
	}
	return false, ""
}

// successorFailed notes what failed, and says it.
func (p *Pool) successorFailed(r *replacement, s *Slot) string {
	r.fault = FaultProgram
	if _, by := p.find(r.by); by != nil { // notReady: it lives
		r.fault = FaultReadiness
	}
	return "its successor failed: " + s.LastExit.Why
}

// vacated returns the replacement whose worker serves no longer, while its successor
// is not ready; nil: there is none.
func (p *Pool) vacated() *replacement {
	r := p.begun()
	if r == nil {
		return nil
	}
	if _, w := p.find(r.id); w != nil && w.serves() {
		return nil
	}
	return r
}

// successor returns the worker that replaces another, unless it has failed or is no
// longer wanted.
func (p *Pool) successor(r *replacement) *Worker {
	if _, w := p.find(r.by); w != nil && w.serves() {
		return w
	}
	return nil
}

// abandon retires the successor of a worker that still serves. The request waits
// again.
func (p *Pool) abandon(r *replacement, reason Reason) {
	_, w := p.find(r.id)
	if by := p.successor(r); by != nil && w != nil && w.serves() {
		p.retireWanted(by, reason)
		r.begun, r.by = false, ID{}
	}
}

// overtaken answers the request to replace a worker that has ended, or is retired for
// another reason, before it began.
func (p *Pool) overtaken(w *Worker, err string) {
	if r := p.request(w.ID); r != nil && !r.begun {
		p.answer(r, err)
	}
}

// request returns the request to replace a worker; nil: there is none.
func (p *Pool) request(id ID) *replacement {
	return p.replacementThat(func(r *replacement) bool { return r.id == id })
}

func (p *Pool) answer(r *replacement, err string) {
	p.replacements = slices.DeleteFunc(p.replacements, func(other *replacement) bool { return other == r })
	p.do(Replaced{ID: r.id, Cause: r.cause, Why: r.why, Err: err, Fault: r.fault})
}

// retireReplaced retires a worker for its successor. Its slot has at most maxDraining
// draining workers, as the app has generations.
func (p *Pool) retireReplaced(r *replacement, s *Slot, w *Worker) {
	w.abort = r.abort
	w.replaceAt = time.Time{}
	p.retire(w, ReasonRecycle, r.why)
	draining := slices.DeleteFunc(slices.Clone(s.Workers), func(w *Worker) bool { return !w.drains() })
	for ; len(draining) > maxDraining; draining = draining[1:] {
		p.kill(draining[0], fmt.Sprintf("more than %d workers of its slot draining", maxDraining))
	}
}
