package pool

import (
	"fmt"
	"time"
)

// restart applies the restart policy to a slot that has lost its worker, unless
// one of another generation still serves there: that one stays. The
// first restart is immediate, those after it wait twice as long each time
// (docs/contract.md, section 7).
func (p *Pool) restart(s *Slot, w *Worker, exit Exit) {
	if s.keepServing() {
		return
	}
	policy := p.of(s.Generation).Restart
	if !w.ReadyAt.IsZero() && p.now.Sub(w.ReadyAt) >= max(policy.Window, leastWindow) {
		s.failures = 0
	}
	s.failures++
	switch {
	case policy.Condition != RestartAny && exit.Clean():
		p.over(s, StateExited, fmt.Sprintf("%s; restart.condition lets it rest", exit.Words))
	case policy.Condition == RestartNone:
		p.over(s, StateFailed, fmt.Sprintf(`%s; restart.condition = "none"`, exit.Words))
	case policy.MaxAttempts > 0 && s.failures > policy.MaxAttempts:
		p.over(s, StateFailed, fmt.Sprintf("gave up after %d restarts in a row: %s", policy.MaxAttempts, exit.Words))
	default:
		s.Restarts++
		wait := backoff(policy, s.failures)
		s.NextStart = p.now.Add(wait)
		p.enter(s, StateBackoff, exit.Words)
	}
}

// However short the configured times are, a crash loop must not burn a core:
// these many restarts in a row are free, then each waits this long; and only a
// worker that was ready for so long ends the row.
const (
	freeRestarts = 5
	leastDelay   = 100 * time.Millisecond
	leastWindow  = time.Second
)

// backoff returns how long the n-th restart in a row waits, n from 1.
func backoff(policy Restart, n int) time.Duration {
	if n <= 1 {
		return 0
	}
	wait := policy.Delay
	for ; n > 2 && wait < policy.MaxDelay; n-- {
		wait *= 2
	}
	wait = min(wait, policy.MaxDelay)
	if n > freeRestarts {
		wait = max(wait, leastDelay)
	}
	return wait
}

// over ends a slot for good: until a roll, nothing is started in it.
func (p *Pool) over(s *Slot, state State, why string) {
	p.enter(s, state, why)
	p.do(CloseSlot{Slot: s.Index})
	if s.Index < len(p.steering) {
		p.steering[s.Index] = 0 // until told otherwise, also where it opens again at once
	}
}
