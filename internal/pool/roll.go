package pool

import (
	"fmt"
	"slices"
	"time"
)

// RollPhase is how far a roll has come, in words for people.
type RollPhase string

// The phases, in order. A roll that fails and may go back is checked and then
// rolled back.
const (
	RollPreparing  RollPhase = "preparing"
	RollRolling    RollPhase = "rolling"
	RollMonitoring RollPhase = "monitoring"
	RollChecking   RollPhase = "checking"
	RollReverting  RollPhase = "rolling back"
)

// Result is how a roll ended (docs/contract.md, sections 6 and 9).
type Result string

// The results.
const (
	ResultDone       Result = "done"
	ResultRolledBack Result = "rolled_back"
	ResultPaused     Result = "paused"
	ResultFailed     Result = "failed, not rolled back"
	ResultCanceled   Result = "canceled"
)

// roll is a change of generation under way. A slot is reached when its
// Generation is set; what moves the workers then is converge.
type roll struct {
	from, to int
	reload   bool
	slots    int // how many the new configuration asks for
	phase    RollPhase
	queue    []int       // slots not reached yet, in the order to reach them
	step     []int       // slots reached whose worker is not ready yet
	before   map[int]int // what each reached slot ran
	nextAt   time.Time   // when the next step may begin
	waitBy   time.Time   // how long the first step waits for older generations to drain
	until    time.Time   // end of monitoring
	why      string      // what made it fail
	checks   []int       // generations whose release is being checked
	told     RollProgress
}

// advanceRoll begins, steps and ends rolls. It changes only what slots are to
// run.
func (p *Pool) advanceRoll() {
	if p.Stopping() {
		p.cancelRolls("the app is stopping")
		return
	}
	for p.roll != nil && p.advance(p.roll) {
	}
	if p.roll == nil && p.requested {
		p.beginRoll()
	}
}

func (p *Pool) beginRoll() {
	p.last++
	p.roll = &roll{from: p.current, to: p.last, reload: p.reload, phase: RollPreparing, before: map[int]int{}}
	p.requested, p.reload = false, false
	p.kept = append(p.kept, p.last)
	p.do(Prepare{Generation: p.last, From: p.roll.from, Reload: p.roll.reload})
}

func (p *Pool) rollPrepared(ev Prepared) {
	r := p.roll
	if r == nil || r.to != ev.Generation || r.phase != RollPreparing {
		return
	}
	r.phase = RollRolling
	r.slots = ev.Slots
	p.settings[ev.Generation] = ev.Settings
	for _, s := range p.slots {
		if !s.leaving.asked {
			r.queue = append(r.queue, s.Index)
		}
	}
	if p.standby { // nobody serves: there is nothing to spare
		p.standby = false
		if !p.up {
			p.bootBy = p.now.Add(ev.Settings.Ready.Timeout)
		}
		p.beginStep(r, len(r.queue))
	}
}

// rollNotPrepared ends a roll of which nothing has run. Its number is given to
// the next one, but where somebody waits for a roll of the number after it.
func (p *Pool) rollNotPrepared(generation int, reason string) {
	if r := p.roll; r == nil || r.to != generation || r.phase != RollPreparing {
		return
	}
	p.endRoll(ResultRolledBack, reason+"; nothing has been changed")
	if !p.requested {
		p.last--
	}
}

// advance ends a step whose workers are ready, begins the next one, or ends the
// roll. It reports whether there may be more to do at once.
func (p *Pool) advance(r *roll) bool {
	if r.phase == RollMonitoring && due(r.until, p.now) {
		p.endRoll(ResultDone, "")
		if r.reload && r.slots != p.configured {
			p.configured = r.slots
			p.scale(r.slots, "workers has changed in the configuration")
		}
		return false
	}
	if r.phase != RollRolling && r.phase != RollReverting {
		return false
	}
	if len(r.step) > 0 {
		r.step = slices.DeleteFunc(r.step, func(i int) bool { return p.slots[i].settled() })
		if len(r.step) > 0 {
			return false
		}
		r.nextAt = p.now
		if r.phase == RollRolling {
			r.nextAt = p.now.Add(p.of(r.to).Update.Delay)
		}
	}
	switch {
	case len(r.queue) == 0 && r.phase == RollReverting:
		p.endRoll(ResultRolledBack, r.why)
	case len(r.queue) == 0:
		r.phase = RollMonitoring
		r.until = p.now.Add(p.of(r.to).Update.Monitor)
	case r.nextAt.After(p.now), p.crowded(r):
		return false
	default:
		p.beginStep(r, p.of(r.to).Update.Parallelism)
	}
	return true
}

// crowded reports whether a roll's first step waits because its predecessors
// would be one draining generation too many.
func (p *Pool) crowded(r *roll) bool {
	if len(r.before) > 0 {
		return false
	}
	if others := p.draining(); len(others) < maxDraining || len(others) == maxDraining && slices.Contains(others, r.from) {
		return false
	}
	if r.waitBy.IsZero() {
		r.waitBy = p.now.Add(drainPatience)
	}
	return r.waitBy.After(p.now)
}

// beginStep reaches the next n slots of the roll, all for 0.
func (p *Pool) beginStep(r *roll, n int) {
	if n == 0 || n > len(r.queue) {
		n = len(r.queue)
	}
	r.step = slices.Clone(r.queue[:n])
	r.queue = slices.Clone(r.queue[n:])
	for _, i := range r.step {
		p.reach(r, p.slots[i])
	}
}

// reach gives a slot the generation that the roll brings, or back the one that
// it ran. A slot that had given up gets a new chance.
func (p *Pool) reach(r *roll, s *Slot) {
	if r.phase == RollReverting {
		s.Generation = r.before[s.Index]
	} else {
		r.before[s.Index] = s.Generation
		s.Generation = r.to
	}
	s.failures, s.inRow = 0, 0
	p.enter(s, StateLive, "")
}

// rollFailed decides what a worker's end means to the roll under way: any end of
// one of the new generation fails it, however long that had been ready. It
// reports whether that settles what the slot does next.
func (p *Pool) rollFailed(s *Slot, w *Worker, exit Exit) bool {
	r := p.roll
	if r == nil {
		return false
	}
	_, reached := r.before[s.Index]
	switch r.phase {
	case RollRolling, RollMonitoring:
		if !reached {
			return false
		}
		r.why = blame(s, w, exit, p.now)
		p.abandonStep(r)
		if p.of(r.to).Update.FailureAction == Pause {
			p.endRoll(ResultPaused, r.why)
			return false
		}
		p.checkBefore(r)
		return true
	case RollChecking:
		return reached
	case RollReverting:
		return p.revertFailed(r, s, w, exit)
	default:
		return false
	}
}

// abandonStep ends the step in progress where it can't go on: the worker that
// serves a slot stays, and its successor is retired. A roll that fails costs no
// worker of the old generation, a rollback that fails none of the new.
func (p *Pool) abandonStep(r *roll) {
	r.queue, r.step = nil, nil
	for _, s := range p.slots {
		stays, reached := r.before[s.Index]
		if r.phase == RollReverting {
			stays = r.to
		}
		if reached && s.serving(stays) != nil {
			s.Generation = stays
			delete(r.before, s.Index)
			p.retireOthers(s)
		}
	}
}

// blame says which worker failed a roll, and when.
func blame(s *Slot, w *Worker, exit Exit, now time.Time) string {
	if w.ReadyAt.IsZero() {
		return fmt.Sprintf("slot %d, generation %d, before it was ready: %s", s.Index, w.ID.Generation, exit.Words)
	}
	after := now.Sub(w.ReadyAt).Round(time.Millisecond)
	return fmt.Sprintf("slot %d, generation %d, %s after it was ready: %s", s.Index, w.ID.Generation, after, exit.Words)
}

// checkBefore asks whether what the reached slots ran can run again. Where every
// slot still has its predecessor, the roll is back already.
func (p *Pool) checkBefore(r *roll) {
	if len(r.before) == 0 {
		p.endRoll(ResultRolledBack, r.why)
		return
	}
	r.phase = RollChecking
	for _, generation := range r.before {
		if !slices.Contains(r.checks, generation) {
			r.checks = append(r.checks, generation)
		}
	}
	slices.Sort(r.checks)
	for _, generation := range r.checks {
		p.do(CheckRelease{Generation: generation})
	}
}

func (p *Pool) releaseChecked(generation int, lost string) {
	r := p.roll
	if r == nil || r.phase != RollChecking || !slices.Contains(r.checks, generation) {
		return
	}
	if lost != "" {
		p.endRoll(ResultFailed, r.why+"; can't go back: "+lost)
		return
	}
	r.checks = slices.DeleteFunc(r.checks, func(g int) bool { return g == generation })
	if len(r.checks) > 0 {
		return
	}
	r.phase = RollReverting
	for i := range r.before {
		r.queue = append(r.queue, i)
	}
	// Slots without a ready worker come first: they have nothing to lose.
	slices.SortFunc(r.queue, func(a, b int) int {
		if ready := p.slots[a].ready(); ready != p.slots[b].ready() {
			if ready {
				return 1
			}
			return -1
		}
		return a - b
	})
	r.nextAt = p.now
}

// revertFailed is for a worker that ends while its roll is taken back. One of
// the new generation makes its slot's turn come at once; one of the old, that
// the slot can't go back.
func (p *Pool) revertFailed(r *roll, s *Slot, w *Worker, exit Exit) bool {
	if at := slices.Index(r.queue, s.Index); at >= 0 {
		r.queue = slices.Delete(r.queue, at, at+1)
		r.step = append(r.step, s.Index)
		p.reach(r, s)
		return true
	}
	if !slices.Contains(r.step, s.Index) {
		return false
	}
	p.abandonStep(r)
	p.endRoll(ResultFailed, r.why+"; can't go back: "+blame(s, w, exit, p.now))
	return false
}

// holds reports whether nothing may be started in a slot until it is known
// where the roll goes.
func (p *Pool) holds(s *Slot) bool {
	if p.roll == nil || p.roll.phase != RollChecking {
		return false
	}
	_, reached := p.roll.before[s.Index]
	return reached
}

func (p *Pool) endRoll(result Result, why string) {
	r := p.roll
	if r == nil {
		return
	}
	p.roll = nil
	if result == ResultDone || result == ResultFailed {
		p.current = r.to
	}
	p.tellEnded(RollEnded{Generation: r.to, Result: result, Why: why})
}

func (p *Pool) tellEnded(e RollEnded) {
	p.lastRoll = e
	p.do(e)
}

// cancelRolls ends the roll under way and the one that was to come after it: who
// asked for that was promised the next generation.
func (p *Pool) cancelRolls(why string) {
	p.endRoll(ResultCanceled, why)
	if p.requested {
		p.last++
		p.requested, p.reload = false, false
		p.tellEnded(RollEnded{Generation: p.last, Result: ResultCanceled, Why: why})
	}
}

func (p *Pool) rollDeadline() time.Time {
	switch r := p.roll; {
	case r == nil:
		return time.Time{}
	case r.phase == RollMonitoring:
		return r.until
	case len(r.step) == 0 && len(r.queue) > 0 && r.nextAt.After(p.now):
		return r.nextAt
	case len(r.before) == 0 && r.waitBy.After(p.now):
		return r.waitBy
	default:
		return time.Time{}
	}
}

// tellRoll tells how the roll goes, when that has changed.
func (p *Pool) tellRoll() {
	if r := p.roll; r != nil {
		if now := p.rollProgress(); now != r.told {
			r.told = now
			p.do(now)
		}
	}
}

func (p *Pool) rollProgress() RollProgress {
	r := p.roll
	m := RollProgress{Phase: r.phase, Reload: r.reload, From: r.from, To: r.to, Why: r.why}
	if !r.waitBy.IsZero() && len(r.before) == 0 {
		m.Why = fmt.Sprintf("two generations drain still: waiting up to %s for the oldest", drainPatience)
	}
	for _, s := range p.slots {
		if s.leaving.asked {
			continue
		}
		m.Of++
		if s.Generation == r.to && s.settled() {
			m.Done++
		}
	}
	return m
}
