package pool

import (
	"fmt"
	"slices"
	"time"
)

// converge moves a slot one step towards its desired state.
func (p *Pool) converge(s *Slot) {
	if !p.began || p.exited {
		return
	}
	switch {
	case p.stop != stopNone:
		p.retireAll(s, ReasonStop)
		if s.State == StateBackoff {
			p.enter(s, StateLive, "")
		}
		return
	case p.standby:
		p.retireAll(s, ReasonStop)
		if !s.over() && !s.leaving.gone && len(s.Workers) == 0 {
			p.enter(s, StateExited, "standby: HUP or USR2 brings the workers back")
		}
		return
	case p.mayGo(s):
		p.retireAll(s, ReasonScale)
		return
	}
	if s.settled() {
		p.retireOthers(s)
		return
	}
	if s.over() || s.serving(s.Generation) != nil || p.holds(s) {
		return
	}
	if s.State == StateBackoff && !due(s.NextStart, p.now) {
		return
	}
	if p.of(s.Generation).Update.Order == StopFirst && len(s.Workers) > 0 {
		p.retireAll(s, ReasonRoll)
		return
	}
	p.start(s)
}

func (p *Pool) start(s *Slot) {
	p.enter(s, StateLive, "")
	s.NextStart = time.Time{}
	p.attempts[s.Index]++
	w := &Worker{ID: ID{s.Index, s.Generation, p.attempts[s.Index]}}
	s.Workers = append(s.Workers, w)
	if r := p.begun(); r != nil && r.id.Slot == s.Index {
		r.by = w.ID
	}
	p.become(w, StateStarting, "")
	p.do(Start{ID: w.ID, Slots: p.wanted})
}

func (p *Pool) started(w *Worker) {
	if w.Running {
		return
	}
	w.Running = true
	w.StartedAt = p.now
	p.ran = true
	if w.unwanted != "" {
		p.retire(w, w.unwanted, "no longer wanted when it had started")
	}
	if w.Killed {
		p.doKill(w.ID)
	}
}

// expireWorker makes a worker ready when its conditions are met, and acts on its
// deadline.
func (p *Pool) expireWorker(s *Slot, w *Worker) {
	switch {
	case !w.Running:
	case w.State == StateStarting && p.isReady(s, w):
		p.becomeReady(s, w)
	case w.State == StateStarting && due(p.workerDeadline(s, w), p.now):
		p.notReady(s, w)
	case w.State == StateDraining && due(w.deadline, p.now):
		w.deadline = time.Time{}
		p.kill(w, fmt.Sprintf("still there after %s of draining", p.of(w.ID.Generation).Drain.Timeout))
	}
}

// workerDeadline returns the next deadline of a worker; zero: none.
func (p *Pool) workerDeadline(s *Slot, w *Worker) time.Time {
	switch {
	case !w.Running || w.State == StateReady:
		return time.Time{}
	case w.State == StateDraining:
		return w.deadline
	default:
		return p.readyDeadline(s, w)
	}
}

// retireOthers retires all workers of a slot but the one that stays.
func (p *Pool) retireOthers(s *Slot) {
	stays := s.serving(s.Generation)
	for _, w := range s.Workers {
		if w != stays {
			p.retireWanted(w, ReasonRoll)
		}
	}
}

func (p *Pool) retireAll(s *Slot, reason Reason) {
	for _, w := range s.Workers {
		p.retireWanted(w, reason)
		if p.stop == stopNow {
			p.kill(w, "stopped at once")
		}
	}
}

// retireWanted retires a worker unless it drains already. A worker that does not run
// yet is retired as soon as it does.
func (p *Pool) retireWanted(w *Worker, reason Reason) {
	switch {
	case w.State == StateDraining && reason == ReasonStop && w.Reason != ReasonStop && !w.Killed:
		p.retireForStop(w)
	case w.State == StateDraining || w.unwanted != "":
	case w.Running:
		p.retire(w, reason, string(reason))
	default:
		w.unwanted = reason
	}
}

func (p *Pool) retire(w *Worker, reason Reason, why string) {
	timeout := p.of(w.ID.Generation).Drain.Timeout
	w.Reason = reason
	w.deadline = p.now.Add(timeout)
	p.become(w, StateDraining, why)
	p.do(Retire{ID: w.ID, Reason: reason, Deadline: w.deadline, Abort: w.abort})
	if timeout <= 0 {
		p.kill(w, "drain.timeout is 0")
	}
	p.cutOldest()
	if reason == ReasonRoll {
		p.overtaken(w, "") // that replaces it too
	} else {
		p.overtaken(w, "it drains: "+why)
	}
}

// retireForStop tells a worker that drains already that the whole app stops: it has
// no successor, so it may close its idle connections. Its deadline does not move back.
func (p *Pool) retireForStop(w *Worker) {
	w.Reason = ReasonStop
	w.deadline = earliest(w.deadline, p.now.Add(p.of(w.ID.Generation).Drain.Timeout))
	p.do(Retire{ID: w.ID, Reason: ReasonStop, Deadline: w.deadline})
}

// cutOldest kills the oldest draining generation when there are more than
// maxDraining.
func (p *Pool) cutOldest() {
	if p.stop != stopNone {
		return // no successors follow
	}
	generations := p.draining()
	if len(generations) <= maxDraining {
		return
	}
	p.workers(func(_ *Slot, w *Worker) {
		if w.drains() && w.ID.Generation == generations[0] {
			p.kill(w, fmt.Sprintf("more than %d generations draining", maxDraining))
		}
	})
}

// draining lists the draining generations, the oldest first.
func (p *Pool) draining() []int {
	var generations []int
	p.workers(func(_ *Slot, w *Worker) {
		if w.drains() && !slices.Contains(generations, w.ID.Generation) {
			generations = append(generations, w.ID.Generation)
		}
	})
	slices.Sort(generations)
	return generations
}

// drains reports whether a worker counts towards maxDraining. Workers of a leaving
// slot or a stopping app do not: they have no successors, so they can't accumulate.
func (w *Worker) drains() bool {
	return w.State == StateDraining && !w.Killed && w.Reason != ReasonScale && w.Reason != ReasonStop
}

// kill sends SIGKILL once. A worker that does not run yet gets it as soon as it
// does.
func (p *Pool) kill(w *Worker, why string) {
	if w.Killed {
		return
	}
	w.Killed = true
	w.deadline = time.Time{}
	if w.Running {
		p.do(StateChanged{ID: w.ID, From: w.State, To: w.State, Why: "killed: " + why})
		p.doKill(w.ID)
	}
}

func (p *Pool) doKill(id ID) {
	p.killedAt = p.now
	p.do(Kill{ID: id})
}

// orphanGroup records processes that outlive their group leader: stop signal now,
// SIGKILL at the drain deadline. If the group was killed already, SIGKILL again.
func (p *Pool) orphanGroup(w *Worker) {
	l := leftover{id: w.ID, deadline: p.now.Add(p.of(w.ID.Generation).Drain.Timeout)}
	if !w.deadline.IsZero() {
		l.deadline = w.deadline
	}
	if w.Killed || p.stop == stopNow {
		l.deadline = time.Time{}
		p.doKill(w.ID)
	} else {
		p.do(StopGroup{ID: w.ID})
	}
	p.left = append(p.left, l)
}

func (p *Pool) groupEnded(id ID) {
	if i := slices.IndexFunc(p.left, func(l leftover) bool { return l.id == id }); i >= 0 {
		p.left = slices.Delete(p.left, i, i+1)
		p.do(Released{ID: id})
	}
}

// startFailed records a failed start. If no worker has run and trying again would not
// help, the app ends, with the exit code of a command that is not found.
func (p *Pool) startFailed(s *Slot, w *Worker, ev StartFailed) {
	switch {
	case !ev.Final || p.ran || p.stop != stopNone:
	case p.fallback.ready:
		s.inRow = fallbackAfter
	default:
		p.fail(exitUsage, ev.Reason)
	}
	p.ended(s, w, Exit{Code: -1, Words: ev.Reason}, false)
}

func (p *Pool) ended(s *Slot, w *Worker, exit Exit, leftovers bool) {
	s.Workers = slices.DeleteFunc(s.Workers, func(other *Worker) bool { return other == w })
	expected := !w.serves()
	p.overtaken(w, "it has ended: "+exit.Words)
	p.do(StateChanged{ID: w.ID, From: w.State, To: StateGone, Why: exit.Words, Exit: exit})
	w.State = StateGone
	if leftovers {
		p.orphanGroup(w)
	} else {
		p.do(Released{ID: w.ID})
	}
	if w.Running && p.stop == stopNone {
		p.do(Restore{Slot: s.Index, Vacant: len(s.Workers) == 0})
	}
	if expected {
		if w.Reason != ReasonRecycle || !w.ReadyAt.IsZero() { // else failed has noted it
			s.LastExit = LastExit{At: p.now, Exit: exit, Why: exit.Words}
		}
		return
	}
	p.failed(s, w, exit)
}

// failed decides what follows an unexpected end: the roll may fail, else the
// restart policy applies.
func (p *Pool) failed(s *Slot, w *Worker, exit Exit) {
	s.LastExit = LastExit{At: p.now, Exit: exit, Why: exit.Words}
	if p.stop != stopNone || w.ID.Generation != s.Generation {
		return // its successor is being started
	}
	if p.rollFailed(s, w, exit) {
		return
	}
	p.restart(s, w, exit)
}

// become is the only place where a live worker changes its state. (kill reports
// without a change.)
func (p *Pool) become(w *Worker, to State, why string) {
	from := w.State
	w.State = to
	p.do(StateChanged{ID: w.ID, From: from, To: to, Why: why})
}

// enter is the only place where a slot changes its state.
func (p *Pool) enter(s *Slot, to State, why string) {
	if s.State == to && s.Why == why {
		return
	}
	from := s.State
	s.State, s.Why = to, why
	if to == StateLive {
		return
	}
	m := StateChanged{ID: ID{Slot: s.Index, Generation: s.Generation}, From: from, To: to, Why: why}
	if to == StateBackoff {
		m.Wait = s.NextStart.Sub(p.now)
	}
	p.do(m)
}
