package pool

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// RollPhase is the phase of a roll.
type RollPhase string

// The phases, in order. The last two are those of a failed roll.
const (
	RollPreparing  RollPhase = "preparing"
	RollRolling    RollPhase = "rolling"
	RollMonitoring RollPhase = "monitoring"
	RollChecking   RollPhase = "checking"
	RollReverting  RollPhase = "rolling back"
)

// Result is how a roll ended (docs/contract.md).
type Result string

// The results.
const (
	ResultDone       Result = "done"
	ResultRolledBack Result = "rolled_back"
	ResultPaused     Result = "paused"
	ResultFailed     Result = "failed, not rolled back"
	ResultCanceled   Result = "canceled"
)

// Fault is what failed a roll.
type Fault string

// The faults.
const (
	FaultConfiguration Fault = "configuration" // it could not begin: the file is no good, or what it names can't be had
	FaultProgram       Fault = "program"       // a worker ended, or could not be started
	FaultReadiness     Fault = "readiness"     // a worker was not ready within ready.timeout
)

// roll is a change of generation in progress. It only sets the Generation of slots
// (reach); converge starts and retires their workers.
type roll struct {
	from, to int
	reload   bool
	slots    int // the number in the new configuration
	phase    RollPhase
	queue    []int       // slots not reached yet, in order
	step     []int       // slots reached whose worker is not ready yet
	before   map[int]int // the previous generation of each reached slot
	nextAt   time.Time   // when the next step may begin
	waitBy   time.Time   // deadline of the wait for older generations to drain
	until    time.Time   // end of monitoring
	why      string      // why it failed
	fault    Fault       // what did
	slot     int         // and where
	checks   []int       // generations whose release is being checked
	reported RollProgress
}

// advanceRoll begins, continues and ends rolls. It changes only the generations of
// slots.
func (p *Pool) advanceRoll() {
	if p.Stopping() {
		p.cancelRolls("the app is stopping")
		return
	}
	for p.roll != nil && p.advance(p.roll) {
	}
	if p.roll == nil && p.requested && p.fallback.to == 0 {
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
	if p.standby { // no worker serves: roll all slots at once
		p.standby = false
		if !p.up {
			p.bootBy = p.now.Add(ev.Settings.Ready.Timeout)
		}
		p.beginStep(r, len(r.queue))
	}
}

// rollNotPrepared ends a roll before its first step. The next roll gets the same
// number, unless a caller already waits for the number after it.
func (p *Pool) rollNotPrepared(generation int, reason string) {
	if r := p.roll; r == nil || r.to != generation || r.phase != RollPreparing {
		return
	}
	p.roll.fault = FaultConfiguration
	p.endRoll(ResultRolledBack, reason+"; nothing has been changed")
	if !p.requested {
		p.last--
	}
}

// advance ends a step whose workers are ready, begins the next one, or ends the
// roll. It reports whether to call it again at once.
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
	case r.nextAt.After(p.now), p.vacated() != nil, p.crowded(r):
		return false
	default:
		p.beginStep(r, p.of(r.to).Update.Parallelism)
	}
	return true
}

// crowded reports whether a roll's first step waits: its predecessors would exceed
// maxDraining.
func (p *Pool) crowded(r *roll) bool {
	if len(r.before) > 0 {
		return false
	}
	if others := p.draining(); len(others) < maxDraining || len(others) == maxDraining && slices.Contains(others, r.from) {
		return false
	}
	if r.waitBy.IsZero() {
		r.waitBy = p.now.Add(drainWait)
	}
	return r.waitBy.After(p.now)
}

// beginStep reaches the next n slots of the roll; 0: all.
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

// reach gives a slot the new generation, or in a rollback its previous one. It also
// restarts a slot that had failed.
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

// rollFailed decides what a worker's end means for the current roll: any end of a
// worker of the new generation fails it. It reports whether the slot must not be
// restarted by the restart policy.
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
		r.why, r.slot, r.fault = cause(s, w, exit, p.now), s.Index, FaultProgram
		if w.Running && exit.Code < 0 && exit.Signal == 0 { // notReady: it lives
			r.fault = FaultReadiness
		}
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

// abandonStep ends the current step of a failed roll or rollback: slots whose
// predecessor still serves keep it, and their new worker is retired.
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

// cause says which worker failed a roll, and when.
func cause(s *Slot, w *Worker, exit Exit, now time.Time) string {
	if w.ReadyAt.IsZero() {
		return fmt.Sprintf("slot %d, generation %d, before it was ready: %s", s.Index, w.ID.Generation, exit.Words)
	}
	after := now.Sub(w.ReadyAt).Round(time.Millisecond)
	return fmt.Sprintf("slot %d, generation %d, %s after it was ready: %s", s.Index, w.ID.Generation, after, exit.Words)
}

// checkBefore checks whether the previous generations of the reached slots can still
// be started. If every slot still has its predecessor, the rollback is done.
func (p *Pool) checkBefore(r *roll) {
	if len(r.before) == 0 {
		p.endRoll(ResultRolledBack, r.why)
		return
	}
	r.phase = RollChecking
	r.checks = slices.Compact(slices.Sorted(maps.Values(r.before)))
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
	late := func(i int) int { // slots without a ready worker come first
		if p.slots[i].ready() {
			return 1
		}
		return 0
	}
	r.queue = slices.Sorted(maps.Keys(r.before))
	slices.SortStableFunc(r.queue, func(a, b int) int { return late(a) - late(b) })
	r.nextAt = p.now
}

// revertFailed handles the end of a worker during a rollback. If it is of the new
// generation, its slot goes back at once. If it is of the old one, the rollback has
// failed.
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
	p.endRoll(ResultFailed, r.why+"; can't go back: "+cause(s, w, exit, p.now))
	return false
}

// holds reports whether a slot must not start a worker until the releases are
// checked.
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
	p.reportEnded(RollEnded{Generation: r.to, Result: result, Why: why, Fault: r.fault, Slot: r.slot})
}

func (p *Pool) reportEnded(e RollEnded) {
	p.lastRoll = e
	p.do(e)
}

// cancelRolls ends the current roll and the requested one, whose callers wait for
// the next generation.
func (p *Pool) cancelRolls(why string) {
	p.endRoll(ResultCanceled, why)
	if p.requested {
		p.last++
		p.requested, p.reload = false, false
		p.reportEnded(RollEnded{Generation: p.last, Result: ResultCanceled, Why: why})
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

// reportRoll sends RollProgress when it has changed.
func (p *Pool) reportRoll() {
	if r := p.roll; r != nil {
		if now := p.rollProgress(); now != r.reported {
			r.reported = now
			p.do(now)
		}
	}
}

func (p *Pool) rollProgress() RollProgress {
	r := p.roll
	m := RollProgress{Phase: r.phase, Reload: r.reload, From: r.from, To: r.to, Why: r.why}
	if !r.waitBy.IsZero() && len(r.before) == 0 {
		m.Why = fmt.Sprintf("two generations drain still: waiting up to %s for the oldest", drainWait)
	}
	if v := p.vacated(); v != nil && len(r.before) == 0 {
		m.Why = fmt.Sprintf("slot %d has been replaced: waiting for its new worker", v.id.Slot)
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
