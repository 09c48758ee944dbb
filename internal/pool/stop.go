package pool

import (
	"fmt"
	"slices"
	"time"
)

// askStop raises what is wanted; converge does the rest.
func (p *Pool) askStop(now bool) {
	if now {
		p.stop = stopNow
		for i := range p.left {
			if l := &p.left[i]; !l.deadline.IsZero() {
				l.deadline = p.now
			}
		}
	}
	p.stop = max(p.stop, stopGraceful)
	p.bootBy = time.Time{}
}

// finish ends the app when nothing of it is alive and nothing will be started.
func (p *Pool) finish() {
	p.forget()
	if p.exited || !p.began || p.alive() > 0 {
		return
	}
	switch {
	case p.stop != stopNone && p.giveUp != "":
		p.quit(1, p.giveUp)
	case p.stop != stopNone:
		p.quit(0, "stopped")
	case p.roll != nil || p.requested:
	case !slices.ContainsFunc(p.slots, func(s *Slot) bool { return s.State != StateExited }):
		p.quit(0, "all workers have ended cleanly")
	case !slices.ContainsFunc(p.slots, func(s *Slot) bool { return !s.over() }):
		p.quit(1, "all workers have ended for good: "+p.firstFailed())
	}
}

func (p *Pool) firstFailed() string {
	i := slices.IndexFunc(p.slots, func(s *Slot) bool { return s.State == StateFailed })
	return fmt.Sprintf("slot %d: %s", i, p.slots[i].Why)
}

func (p *Pool) quit(code int, why string) {
	p.exited = true
	p.do(Quit{Code: code, Why: why})
}

// forget lets go of generations from which nothing can be started any more.
func (p *Pool) forget() {
	p.kept = slices.DeleteFunc(p.kept, func(generation int) bool {
		if p.needs(generation) {
			return false
		}
		p.do(Forget{Generation: generation})
		return true
	})
}

func (p *Pool) needs(generation int) bool {
	if generation == p.generation {
		return true
	}
	if r := p.roll; r != nil {
		if generation == r.to {
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
			return w.ID.Generation == generation && !w.Running // it is being started from there
		})
	})
}
