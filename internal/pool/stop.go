package pool

import (
	"fmt"
	"slices"
	"time"
)

// askStop raises what is wanted; converge does the rest. Where a delay is
// configured and somebody serves, the host is said to drain for that long first.
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

// beginStop is the end of serving: no new connections, every worker drains.
func (p *Pool) beginStop() {
	p.stopAt = time.Time{}
	if p.stop == stopNone {
		p.do(CloseListeners{})
	}
	p.stop = max(p.stop, stopGraceful)
	p.bootBy = time.Time{}
}

// finish ends the app when nothing of it is alive and nothing will be started.
func (p *Pool) finish() {
	p.forget()
	if p.exited || !p.began {
		return
	}
	if n := p.alive(); n > 0 {
		if due(p.hopeless(), p.now) {
			p.exit(1, fmt.Sprintf("%d workers, or what they left, survive SIGKILL: they belong to another user, hang in the kernel (ps shows state D), or a tracer holds them (gdb, strace)", n))
		}
		return
	}
	switch {
	case p.stop != stopNone && p.giveUp != "":
		p.exit(1, p.giveUp)
	case p.stop != stopNone:
		p.exit(0, "stopped")
	case p.roll != nil || p.requested || p.standby:
	case !slices.ContainsFunc(p.slots, func(s *Slot) bool { return s.State != StateExited }):
		p.exit(0, "all workers have ended cleanly")
	case !slices.ContainsFunc(p.slots, func(s *Slot) bool { return !s.over() }):
		p.exit(1, "all workers have ended for good: "+p.firstFailed())
	}
}

// lastHope is how long the dying may take after SIGKILL.
const lastHope = 5 * time.Second

// hopeless is when a stop no longer waits for those that have been killed; zero
// while anybody has not.
func (p *Pool) hopeless() time.Time {
	killed := p.stop != stopNone && p.alive() > 0
	p.workers(func(_ *Slot, w *Worker) { killed = killed && w.Killed && w.Running })
	for _, l := range p.left {
		killed = killed && l.deadline.IsZero()
	}
	if !killed {
		return time.Time{}
	}
	return p.killedAt.Add(lastHope)
}

func (p *Pool) firstFailed() string {
	i := slices.IndexFunc(p.slots, func(s *Slot) bool { return s.State == StateFailed })
	return fmt.Sprintf("slot %d: %s", i, p.slots[i].Why)
}

func (p *Pool) exit(code int, why string) {
	p.exited = true
	p.do(AppExited{Code: code, Why: why})
}

// forget lets go of generations from which nothing can be started any more.
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

// needs reports whether a worker of the generation may still be started: a slot
// is to run it, or a roll brings it or goes back to it. A worker that serves may
// be kept when its successor fails (keepServing), so its generation is needed
// too.
func (p *Pool) needs(generation int) bool {
	if generation == p.current {
		return true
	}
	if r := p.roll; r != nil {
		if generation == r.to || generation == r.from {
			return true
		}
		for _, before := range r.before {
			if generation == before {
				return true
			}
		}
	}
	return slices.ContainsFunc(p.slots, func(s *Slot) bool {
		return s.Generation == generation || slices.ContainsFunc(s.Workers, func(w *Worker) bool {
			return w.ID.Generation == generation
		})
	})
}
