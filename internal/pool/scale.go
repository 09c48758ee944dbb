package pool

import (
	"slices"
	"time"
)

// leaving is a slot's way out: new connections are steered away, its worker
// serves on until nothing waits in its sockets, then drains, and the sockets
// close last (docs/contract.md, section 2).
type leaving struct {
	asked bool
	told  bool // Leave is out
	turn  int  // which Leave, so that a late answer to an earlier one counts for nothing
	at    time.Time
	empty bool // Emptied came
	gone  bool // the sockets are closed
}

// leastLeave is how long a slot serves after connections have been steered away,
// whatever its sockets say: what the kernel had in hand then arrives within it.
const leastLeave = time.Second

// scale sets how many slots are wanted: it makes those that are missing and sends
// away those beyond. One that leaves and is wanted again stays.
func (p *Pool) scale(n int, why string) {
	if n < 1 || n == p.wanted || !p.began || p.Stopping() {
		return
	}
	p.do(Scaled{From: p.wanted, To: n, Why: why})
	p.wanted = n
	for i := len(p.slots); i < p.wanted; i++ {
		s := &Slot{Index: i, lostAt: p.now.Add(-steerAfter)} // no connections before it is ready
		p.slots = append(p.slots, s)
		p.joinRoll(s)
	}
	for _, s := range p.slots {
		switch {
		case s.Index >= p.wanted && !s.leaving.asked:
			p.turns++
			s.leaving = leaving{asked: true, turn: p.turns, at: p.now}
			p.leaveRoll(s)
		case s.Index < p.wanted && s.leaving.asked:
			s.leaving = leaving{}
			p.enter(s, StateLive, "")
			p.joinRoll(s)
		}
	}
}

// joinRoll gives a slot that is new, or wanted again, its generation: that of the
// others, or, while they change theirs, its turn like any other.
func (p *Pool) joinRoll(s *Slot) {
	r := p.roll
	if r == nil || !s.keepServing() {
		s.Generation = p.current
	}
	switch {
	case r == nil || r.phase == RollPreparing:
	case r.phase == RollMonitoring:
		r.before[s.Index] = r.from
		s.Generation = r.to
	case s.Generation == r.to: // it had been rolled before it was to leave
		r.before[s.Index] = r.from
		if r.phase == RollReverting {
			r.queue = append(r.queue, s.Index)
		}
	case r.phase == RollRolling:
		r.queue = append(r.queue, s.Index)
	}
}

// leaveRoll takes a slot out of the roll under way.
func (p *Pool) leaveRoll(s *Slot) {
	if r := p.roll; r != nil {
		is := func(i int) bool { return i == s.Index }
		r.queue = slices.DeleteFunc(r.queue, is)
		r.step = slices.DeleteFunc(r.step, is)
		delete(r.before, s.Index)
	}
}

// tellLeaving asks for news of the sockets of slots that have just been steered
// away from.
func (p *Pool) tellLeaving() {
	for _, s := range p.slots {
		if s.leaving.asked && !s.leaving.told {
			s.leaving.told = true
			p.do(Leave{Slot: s.Index, Turn: s.leaving.turn})
		}
	}
}

func (p *Pool) emptied(slot, turn int) {
	if slot >= 0 && slot < len(p.slots) && p.slots[slot].leaving.asked && p.slots[slot].leaving.turn == turn {
		p.slots[slot].leaving.empty = true
	}
}

// mayGo reports whether a leaving slot's worker may drain: nothing waits for it.
// After a drain's time it goes whatever waits.
func (p *Pool) mayGo(s *Slot) bool {
	return s.leaving.asked && !p.leaveDeadline(s).After(p.now)
}

// leaveDeadline is when a slot's worker may go; zero for one that stays.
func (p *Pool) leaveDeadline(s *Slot) time.Time {
	switch {
	case !s.leaving.asked:
		return time.Time{}
	case s.leaving.empty || s.leaving.gone || s.over():
		return s.leaving.at.Add(leastLeave)
	default:
		return s.leaving.at.Add(max(leastLeave, p.of(s.Generation).Drain.Timeout))
	}
}

// dropSlots closes the sockets of slots whose last worker has gone, and forgets
// them from the highest down.
func (p *Pool) dropSlots() {
	if p.stop != stopNone {
		return
	}
	for _, s := range p.slots {
		if p.mayGo(s) && len(s.Workers) == 0 && !s.leaving.gone {
			s.leaving.gone = true
			p.enter(s, StateLive, "")
			p.do(CloseSlot{Slot: s.Index})
		}
	}
	for n := len(p.slots); n > 1 && p.slots[n-1].leaving.gone; n-- {
		p.slots = p.slots[:n-1]
	}
}
