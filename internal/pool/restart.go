package pool

import (
	"fmt"
	"slices"
	"time"
)

// restart applies the restart policy to a slot that has lost its worker, unless a
// worker of another generation still serves there. The first restart is immediate,
// then the delay doubles (docs/contract.md, Configuration).
func (p *Pool) restart(s *Slot, w *Worker, exit Exit) {
	if s.keepServing() {
		return
	}
	policy := p.of(s.Generation).Restart
	window := policy.Window
	clean := exit.Clean() && policy.CleanResets
	if clean {
		window = 0
	}
	if !w.ReadyAt.IsZero() && p.now.Sub(w.ReadyAt) >= max(window, minWindow) {
		s.failures, s.inRow = 0, 0
	}
	s.inRow++
	s.failures++
	if clean {
		s.failures = 0
	}
	switch {
	case slices.Contains(policy.Prevent, exit.Code) && exit.Clean():
		p.over(s, StateExited, exit.Words+"; restart.prevent has it")
	case slices.Contains(policy.Prevent, exit.Code):
		p.over(s, StateFailed, exit.Words+"; restart.prevent has it")
	case exit.Clean() && (policy.Condition == RestartOnFailure || policy.Condition == RestartNone):
		p.over(s, StateExited, fmt.Sprintf("%s; restart.condition lets it rest", exit.Words))
	case policy.Condition == RestartNone:
		p.over(s, StateFailed, fmt.Sprintf(`%s; restart.condition = "none"`, exit.Words))
	case policy.MaxAttempts > 0 && s.failures > policy.MaxAttempts:
		p.over(s, StateFailed, fmt.Sprintf("gave up after %d restarts in a row: %s", policy.MaxAttempts, exit.Words))
	default:
		s.Restarts++
		wait := backoff(policy, s.failures, s.inRow)
		s.NextStart = p.now.Add(wait)
		p.enter(s, StateBackoff, exit.Words)
		p.do(Restarted{ID: w.ID, Cause: causeOf(w, exit)})
	}
}

// causeOf is what a worker is restarted for. One that is still there was not ready in
// time.
func causeOf(w *Worker, exit Exit) Cause {
	switch {
	case w.State != StateGone || !w.Running:
		return CauseNotReady
	case exit.OOM:
		return CauseOOM
	case exit.Clean():
		return CauseExited
	default:
		return CauseCrashed
	}
}

// A crash loop must not use up a CPU, however short the configured times are: after
// freeRestarts in a row each restart waits at least minDelay, or minWindow after a
// clean end, which has no backoff. A worker that was ready for minWindow ends the
// row.
const (
	freeRestarts = 5
	minDelay     = 100 * time.Millisecond
	minWindow    = time.Second
)

// backoff returns the delay of a restart. failures and inRow count failures (0 after
// a clean end) and restarts in a row.
func backoff(policy Restart, failures, inRow int) (wait time.Duration) {
	if failures > 1 {
		wait = policy.Delay
		for n := failures; n > 2 && wait < policy.MaxDelay; n-- {
			wait *= 2
		}
		wait = min(wait, policy.MaxDelay)
	}
	switch {
	case inRow <= freeRestarts:
		return wait
	case failures == 0:
		return minWindow
	default:
		return max(wait, minDelay)
	}
}

// over ends a slot: no worker is started in it until the next roll.
func (p *Pool) over(s *Slot, state State, why string) {
	p.enter(s, state, why)
	p.do(CloseSlot{Slot: s.Index})
	if s.Index < len(p.steering) {
		p.steering[s.Index] = 0 // so that steer sends Steer again should it reopen at once
	}
}
