package pool

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// askStop begins a stop. If drain.delay is set and a worker serves, the host is
// advertised as draining for that long first.
func (p *Pool) askStop(now bool) {
	delay := time.Duration(0)
	if p.began {
		delay = p.of(p.current).Drain.Delay
	}
	serves := slices.ContainsFunc(p.slots, (*Slot).ready)
	if !now && p.stop == stopNone && delay > 0 && serves {
		if p.stopAt.IsZero() {
			p.stopAt = p.now.Add(delay)
			p.drainHost(true, fmt.Sprintf("stopping in %s", delay))
		}
		return
	}
	p.beginStop()
	if now {
		p.stop = stopNow
		for i := range p.left {
			if l := &p.left[i]; !l.deadline.IsZero() {
				l.deadline = p.now
			}
		}
	}
}

// beginStop closes the listeners; converge then drains every worker.
func (p *Pool) beginStop() {
	p.stopAt = time.Time{}
	if p.stop == stopNone {
		p.do(CloseListeners{})
	}
	p.stop = max(p.stop, stopGraceful)
	p.fallback = fallback{}
	p.bootBy = time.Time{}
}

// fail stops an app that can't run.
func (p *Pool) fail(code int, why string) {
	p.failure, p.failureCode = why, code
	p.beginStop()
}

// finish ends the app when no process of it lives and none will be started.
func (p *Pool) finish() {
	p.forget()
	if p.exited || !p.began {
		return
	}
	if n := p.alive(); n > 0 {
		if due(p.giveUpAt(), p.now) {
			p.exit(1, fmt.Sprintf("%d workers, or what they left, survive SIGKILL: they belong to another user, hang in the kernel (ps shows state D), or a tracer holds them (gdb, strace)", n))
		}
		return
	}
	switch {
	case p.stop != stopNone && p.failure != "":
		p.exit(p.failureCode, p.failure)
	case p.stop != stopNone:
		p.exit(0, "stopped")
	case p.roll != nil || p.requested || p.standby || p.fallback.to != 0:
	case !slices.ContainsFunc(p.slots, func(s *Slot) bool { return s.State != StateExited }):
		p.exit(0, "all workers have ended cleanly")
	case !slices.ContainsFunc(p.slots, func(s *Slot) bool { return !s.over() }):
		i := slices.IndexFunc(p.slots, func(s *Slot) bool { return s.State == StateFailed })
		p.exit(1, fmt.Sprintf("all workers have ended for good: slot %d: %s", i, p.slots[i].Why))
	}
}

// killTimeout is how long a stop waits for processes that were sent SIGKILL.
const killTimeout = 5 * time.Second

// giveUpAt is when to exit although killed processes have not ended; zero while any
// has not been sent SIGKILL.
func (p *Pool) giveUpAt() time.Time {
	killed := p.stop != stopNone && p.alive() > 0
	p.workers(func(_ *Slot, w *Worker) { killed = killed && w.Killed && w.Running })
	for _, l := range p.left {
		killed = killed && l.deadline.IsZero()
	}
	if !killed {
		return time.Time{}
	}
	return p.killedAt.Add(killTimeout)
}

func (p *Pool) exit(code int, why string) {
	p.exited = true
	if code != 0 {
		p.failure = why
	}
	p.do(AppExited{Code: code, Why: why})
}

// forget sends Forget for generations of which no worker can be started any more.
func (p *Pool) forget() {
	p.kept = slices.DeleteFunc(p.kept, func(generation int) bool {
		if p.needs(generation) {
			return false
		}
		p.do(Forget{Generation: generation})
		delete(p.settings, generation)
		return true
	})
}

// needs reports whether a worker of the generation may still be started: for a slot,
// by a roll or a rollback, or because a live worker of it is kept when its successor
// fails (keepServing).
func (p *Pool) needs(generation int) bool {
	if generation == p.fallback.to || p.Serves(generation) {
		return true
	}
	if p.roll != nil && slices.Contains(slices.Collect(maps.Values(p.roll.before)), generation) {
		return true
	}
	return slices.ContainsFunc(p.slots, func(s *Slot) bool {
		return slices.ContainsFunc(s.Workers, func(w *Worker) bool { return w.ID.Generation == generation })
	})
}
