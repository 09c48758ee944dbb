package pool

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Step applies one event at the time now and returns the actions that follow, in
// order. Times must not run backwards.
func (p *Pool) Step(now time.Time, ev Event) []Action {
	p.now = now
	p.note(ev)
	p.expire()
	p.endReplacements()
	p.advanceRoll()
	p.weighStalls()
	p.replaceStalled()
	p.beginReplacement()
	for _, s := range p.slots {
		p.converge(s)
	}
	p.dropSlots()
	p.reportRoll()
	p.weighStalls() // some may have been retired
	p.steer()
	p.finish()
	actions := p.actions
	p.actions = nil
	return actions
}

// Next returns the deadline at which to call Step with Ticked; zero: none. It is
// always after the last Step's time.
func (p *Pool) Next() time.Time {
	if p.exited {
		return time.Time{}
	}
	next := earliest(p.bootBy, p.stopAt)
	p.workers(func(s *Slot, w *Worker) {
		next = earliest(next, earliest(p.workerDeadline(s, w), p.stallDeadline(s, w)))
	})
	for _, l := range p.left {
		next = earliest(next, l.deadline)
	}
	for _, s := range p.slots {
		if s.State == StateBackoff && s.NextStart.After(p.now) {
			next = earliest(next, s.NextStart)
		}
		if grace := s.lostAt.Add(steerAfter); !s.lostAt.IsZero() && grace.After(p.now) {
			next = earliest(next, grace)
		}
		if at := p.leaveDeadline(s); at.After(p.now) {
			next = earliest(next, at)
		}
	}
	return earliest(earliest(next, p.rollDeadline()), p.giveUpAt())
}

// note records an event. The rest of Step decides what follows.
func (p *Pool) note(ev Event) {
	switch ev := ev.(type) {
	case Began:
		p.begin(ev.Fallback)
	case Ticked:
	case Prepared:
		if ev.Generation == p.fallback.to {
			p.fallbackPrepared(ev)
		} else {
			p.rollPrepared(ev)
		}
	case PrepareFailed:
		if ev.Generation == p.fallback.to {
			p.fallbackLost(ev.Reason)
		} else {
			p.rollNotPrepared(ev.Generation, ev.Reason)
		}
	case Started:
		p.onWorker(ev.ID, func(_ *Slot, w *Worker) { p.started(w) })
	case StartFailed:
		p.onWorker(ev.ID, func(s *Slot, w *Worker) { p.startFailed(s, w, ev) })
	case HelloReceived:
		p.onWorker(ev.ID, func(_ *Slot, w *Worker) { w.HelloReceived = true })
	case Notified:
		p.onWorker(ev.ID, func(s *Slot, w *Worker) { w.Notified, s.notifies = true, true })
	case Listened:
		p.onWorker(ev.ID, func(_ *Slot, w *Worker) { p.listened(w, ev.Elsewhere) })
	case Accepting:
		p.onWorker(ev.ID, func(_ *Slot, w *Worker) { w.Accepting = true })
	case Idled:
		p.onWorker(ev.ID, func(_ *Slot, w *Worker) { w.Idled = true })
	case Stalled:
		p.onWorker(ev.ID, func(_ *Slot, w *Worker) { p.stalled(w) })
	case Accepted:
		p.onWorker(ev.ID, func(_ *Slot, w *Worker) { p.accepted(w) })
	case ReplaceRequested:
		p.onWorker(ev.ID, func(s *Slot, w *Worker) { p.replaceRequested(s, w, ev) })
	case Exited:
		p.onWorker(ev.ID, func(s *Slot, w *Worker) { p.ended(s, w, ev.Exit, ev.Leftovers) })
	case GroupEnded:
		p.groupEnded(ev.ID)
	case RollRequested:
		p.requested = !p.Stopping()
		p.reload = p.requested && (p.reload || ev.Reload)
	case ReleaseChecked:
		p.releaseChecked(ev.Generation, ev.Lost)
	case ScaleRequested:
		p.scale(ev.Slots, ev.Why)
	case Emptied:
		p.emptied(ev.Slot, ev.Turn)
	case StandbyRequested:
		p.standBy()
	case HostDrainRequested:
		p.drainHost(ev.Draining, ev.Why)
	case Inherited:
		p.inherit(ev)
	case StopRequested:
		p.askStop(ev.Now)
	}
}

func (p *Pool) onWorker(id ID, f func(*Slot, *Worker)) {
	if s, w := p.find(id); w != nil {
		f(s, w)
	}
}

// begin starts the first generation. The executor has prepared it.
func (p *Pool) begin(fallback bool) {
	if p.began {
		return
	}
	p.began = true
	p.fallback.ready = fallback
	p.bootBy = p.now.Add(p.of(1).Ready.Timeout)
	p.last, p.current = 1, 1
	p.kept = []int{1}
	for _, s := range p.slots {
		s.Generation = 1
		s.lostAt = p.now
	}
}

func (p *Pool) expire() {
	if due(p.stopAt, p.now) {
		p.beginStop()
	}
	p.workers(p.expireWorker)
	for i := range p.left {
		if l := &p.left[i]; due(l.deadline, p.now) {
			l.deadline = time.Time{}
			p.doKill(l.id)
		}
	}
	p.fallBack()
	p.boot()
}

// boot decides when the app is up: all slots that run are ready, or at
// ready.timeout some are. If none is ready by then, the app stops with an error.
func (p *Pool) boot() {
	if p.up || !p.began || p.standby || p.stop != stopNone {
		return
	}
	ready, running := 0, 0
	for _, s := range p.slots {
		if s.leaving.asked {
			continue
		}
		if s.ready() {
			ready++
		}
		if !s.over() {
			running++
		}
	}
	switch {
	case ready > 0 && ready == running, ready > 0 && due(p.bootBy, p.now):
		p.up, p.upAt = true, p.now
		p.bootBy = time.Time{}
		p.do(AppUp{Ready: ready, Wanted: p.wanted})
	case due(p.bootBy, p.now):
		within := p.of(p.current).Ready.Timeout
		why := p.anyFailure()
		if why == "" {
			why = p.noneReady()
		}
		// A look that comes late finds that the workers' time is over too.
		why = strings.TrimPrefix(why, fmt.Sprintf("not ready within %s: ", within))
		p.fail(1, fmt.Sprintf("no worker became ready within %s: %s", within, why))
	}
}

// anyFailure returns the newest failure of any slot; "": none.
func (p *Pool) anyFailure() string {
	var newest LastExit
	for _, s := range p.slots {
		if !s.LastExit.At.Before(newest.At) {
			newest = s.LastExit
		}
	}
	return newest.Why
}

// steer sends Steer when the set of serving slots has changed. A slot without a
// ready worker stays in the set for steerAfter: a crashed worker is back before most
// clients notice. A leaving slot is taken out before Leave is sent, a stalled one while
// another can take.
func (p *Pool) steer() {
	if !p.began || p.stop != stopNone {
		return
	}
	serving := make([]int, len(p.slots))
	for i, s := range p.slots {
		switch {
		case s.ready():
			s.lostAt = time.Time{}
		case s.lostAt.IsZero():
			s.lostAt = p.now
		}
		if !s.over() && !s.leaving.asked && !p.steerRound(s) && (s.lostAt.IsZero() || s.lostAt.Add(steerAfter).After(p.now)) {
			serving[i] = s.accepting()
		}
	}
	if !slices.Equal(serving, p.steering) {
		p.steering = serving
		p.do(Steer{Serving: serving})
	}
	p.sendLeave()
}

// due reports whether a deadline has passed. A zero deadline never does.
func due(deadline, now time.Time) bool { return !deadline.IsZero() && !deadline.After(now) }
