package pool

import (
	"slices"
)

// check checks the invariants after a step.
func (w *world) check() {
	v := w.pool.View()
	if next := w.pool.Next(); !next.IsZero() && !next.After(w.now) {
		w.t.Fatalf("at %s: Next is %s, which is not later", w.now.Sub(epoch), next.Sub(epoch))
	}
	draining, doubled := map[int]bool{}, 0
	for _, s := range v.Slots {
		serving := 0
		for _, worker := range s.Workers {
			if worker.State == StateReady && w.early(worker) {
				w.t.Fatalf("%s is ready: %s", worker.ID, worker.ReadyHow)
			}
			switch {
			case !w.alive[worker.ID]:
				w.t.Fatalf("the pool believes in %s", worker.ID)
			case worker.drains():
				draining[worker.ID.Generation] = true
			case worker.State != StateDraining && worker.unwanted == "":
				serving++
			}
		}
		if serving > 1 && !s.leaving.asked {
			doubled++
		}
		if s.ready() && !s.leaving.asked && w.pool.stop == stopNone && w.accept[s.Index] == w.toSkip(v, s) {
			w.t.Fatalf("slot %d is ready, and gets connections: %t", s.Index, w.accept[s.Index])
		}
		if s.State != StateLive && serving > 0 {
			w.t.Fatalf("slot %d is %s with a worker that serves", s.Index, s.State)
		}
		if w.settings.Update.Order == StopFirst && len(s.Workers) > 1 {
			w.t.Fatalf("stop-first, and slot %d has %d workers", s.Index, len(s.Workers))
		}
	}
	if len(draining) > maxDraining && w.pool.stop == stopNone {
		w.t.Fatalf("%d generations draining", len(draining))
	}
	w.checkFailedRoll()
	w.checkServing(v)
	// A slot that left during its step may end it during the next.
	undisturbed := !w.scaled && (v.LastRoll == nil || v.LastRoll.Result == ResultDone) && (v.Roll == nil || v.Roll.Phase == RollRolling)
	if n := w.settings.Update.Parallelism; n > 0 && doubled > n && undisturbed {
		w.t.Fatalf("%d slots have two workers that serve, parallelism is %d", doubled, n)
	}
	if doubled > 1 && v.Roll == nil && undisturbed {
		w.t.Fatalf("%d workers are being replaced", doubled)
	}
	if s := v.Slots; len(s) < v.Wanted && !w.pool.Stopping() || len(s) > v.Wanted && !s[len(s)-1].leaving.asked && !w.pool.Stopping() {
		w.t.Fatalf("%d slots, wanted %d", len(s), v.Wanted)
	}
	if v.Ready == v.Wanted {
		w.unsettled = false
	}
	if w.calm && w.pool.up && !w.unsettled && !w.pool.Stopping() && v.Ready < v.Wanted {
		w.t.Fatalf("at %s: nothing has failed, and %d of %d are ready", w.now.Sub(epoch), v.Ready, v.Wanted)
	}
}

// toSkip reports whether a ready slot's new worker is stalled while fewer than half of
// all are, and one is not.
func (w *world) toSkip(v View, s Slot) bool {
	ready, stalled := 0, 0
	for _, other := range v.Slots {
		if other.ready() && !other.leaving.asked {
			ready++
			if other.stalled() {
				stalled++
			}
		}
	}
	return s.stalled() && stalled < ready && (stalled < 2 || 2*stalled < ready)
}

// early reports whether a ready worker has not given a signal that its mode asks for.
// (Learned listeners are asked of later workers only.)
func (w *world) early(worker *Worker) bool {
	seen := w.settings.Seen
	switch w.settings.Ready.Mode {
	case ReadyListening:
		return !worker.Listened
	case ReadyAccepting:
		return !worker.Accepting
	case ReadyNotify:
		return !worker.Notified
	case ReadyDelay:
		return worker.ReadyAt.Sub(worker.StartedAt) < w.pool.of(worker.ID.Generation).Ready.Delay
	case ReadyAuto:
		return seen.Listeners && (seen.Accepting && !worker.Accepting || seen.Listening && !worker.Listened && !worker.Notified && !seen.Accepting) ||
			seen.Notifies && !worker.Notified
	}
	return false
}

// checkFailedRoll: from a roll's failure on, no ready worker of another
// generation is retired.
func (w *world) checkFailedRoll() {
	// A slot that is wanted again after a scale may be given another generation.
	if w.failed == 0 || w.scaled || w.pool.stop != stopNone || w.pool.standby {
		return
	}
	for _, id := range w.ready {
		s, worker := w.pool.find(id)
		replaced := worker != nil && worker.Reason == ReasonRecycle
		if id.Generation != w.failed && worker != nil && worker.State != StateReady && !s.leaving.asked && !replaced {
			w.t.Fatalf("at %s: the roll to %d has failed, and %s, which was ready, is %s", w.now.Sub(epoch), w.failed, id, worker.State)
		}
	}
}

// checkServing: if workers only fail to become ready, a roll and its rollback take no
// more slots out of service than a step has; none with start-first.
func (w *world) checkServing(v View) {
	n := w.settings.Update.Parallelism
	if !w.silent || n == 0 || !v.Up || w.unsettled || w.scaled || w.pool.Stopping() || w.pool.standby {
		return
	}
	if w.settings.Update.Order == StartFirst {
		n = 0
	}
	serving := 0
	for _, s := range v.Slots {
		if slices.ContainsFunc(s.Workers, func(worker *Worker) bool { return !worker.ReadyAt.IsZero() && !worker.Killed }) {
			serving++
		}
	}
	if serving < v.Wanted-n {
		w.t.Fatalf("at %s: %d of %d slots serve, parallelism is %d: %+v", w.now.Sub(epoch), serving, v.Wanted, w.settings.Update.Parallelism, v)
	}
}
