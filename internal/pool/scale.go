package pool

import (
	"slices"
	"time"
)

// leaving is the removal of a slot: new connections are steered away, its worker
// serves until no connection waits in its sockets, then drains; the sockets close
// last (docs/contract.md, Data path).
type leaving struct {
	asked bool
	sent  bool // Leave was sent
	turn  int  // of that Leave: a late answer to an earlier one is ignored
	at    time.Time
	empty bool // Emptied came
	gone  bool // the sockets are closed
}

// minLeave is the least time that a slot serves after connections have been steered
// away: connections that the kernel was handling then arrive within it.
const minLeave = time.Second

// scale sets the number of slots: it adds missing ones and lets those above leave. A
// leaving slot that is wanted again stays.
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
	p.endReplacements()
}

// joinRoll gives a slot that is new, or wanted again, its generation. During a roll
// it is queued like the others.
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
	case s.Generation == r.to: // it had been rolled before it left
		r.before[s.Index] = r.from
		if r.phase == RollReverting {
			r.queue = append(r.queue, s.Index)
		}
	case r.phase == RollRolling:
		r.queue = append(r.queue, s.Index)
	}
}

func (p *Pool) leaveRoll(s *Slot) {
	if r := p.roll; r != nil {
		is := func(i int) bool { return i == s.Index }
		r.queue = slices.DeleteFunc(r.queue, is)
		r.step = slices.DeleteFunc(r.step, is)
		delete(r.before, s.Index)
	}
}

// sendLeave sends Leave for slots that have just been steered away from.
func (p *Pool) sendLeave() {
	for _, s := range p.slots {
		if s.leaving.asked && !s.leaving.sent {
			s.leaving.sent = true
			p.do(Leave{Slot: s.Index, Turn: s.leaving.turn})
		}
	}
}

func (p *Pool) emptied(slot, turn int) {
	if slot >= 0 && slot < len(p.slots) && p.slots[slot].leaving.asked && p.slots[slot].leaving.turn == turn {
		p.slots[slot].leaving.empty = true
	}
}

// mayGo reports whether a leaving slot's worker may drain: its sockets are empty, or
// drain.timeout is over.
func (p *Pool) mayGo(s *Slot) bool {
	return s.leaving.asked && !p.leaveDeadline(s).After(p.now)
}

// leaveDeadline is when a leaving slot's worker may drain; zero: the slot stays.
func (p *Pool) leaveDeadline(s *Slot) time.Time {
	switch {
	case !s.leaving.asked:
		return time.Time{}
	case s.leaving.empty || s.leaving.gone || s.over():
		return s.leaving.at.Add(minLeave)
	default:
		return s.leaving.at.Add(max(minLeave, p.of(s.Generation).Drain.Timeout))
	}
}

// dropSlots closes the sockets of leaving slots whose last worker is gone, and
// removes such slots from the highest down.
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
