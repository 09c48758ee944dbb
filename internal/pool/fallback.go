package pool

import (
	"slices"
	"time"
)

// fallbackAfter is how many restarts in a row, in every slot, show that a release does not
// work at all.
const fallbackAfter = 6

// fallback is the release that served last, in an earlier life of the master. It is run when,
// at the start, no worker of the present one becomes ready.
type fallback struct {
	ready  bool      // there is one, and the present release has not served yet
	to     int       // the generation that it is being prepared for; 0: none
	why    string    // the present one does not serve
	bootBy time.Time // the deadline before it was prepared
}

// fallBack asks for the fallback once nothing of the present release works: every slot has
// failed, or has been restarted often, or ready.timeout is over; none is ready.
func (p *Pool) fallBack() {
	f := &p.fallback
	served := p.up && due(p.upAt.Add(p.of(p.current).Update.Monitor), p.now)
	if p.current != 1 || served {
		f.ready = false
	}
	if !f.ready || !p.began || p.roll != nil || p.requested || p.standby || p.Stopping() || !p.fails() {
		return
	}
	f.ready = false
	if f.why = p.anyFailure(); f.why == "" {
		f.why = p.noneReady()
	}
	p.last++
	f.to, f.bootBy = p.last, p.bootBy
	p.kept = append(p.kept, p.last)
	if !p.up {
		p.bootBy = p.now.Add(p.of(p.current).Ready.Timeout)
	}
	p.do(Prepare{Generation: f.to, From: p.current, Fallback: true})
}

// fails reports whether nothing of the present release works. What has ended cleanly and is not
// to be restarted has not failed.
func (p *Pool) fails() bool {
	failed, late := 0, due(p.bootBy, p.now)
	for _, s := range p.slots {
		switch {
		case s.ready():
			return false
		case s.State == StateExited:
		case s.State == StateFailed, s.inRow >= fallbackAfter, late:
			failed++
		default:
			return false
		}
	}
	return failed > 0
}

// fallbackPrepared gives every slot the fallback, unless the present release has come to
// serve meanwhile.
func (p *Pool) fallbackPrepared(ev Prepared) {
	f := &p.fallback
	f.to = 0
	if slices.ContainsFunc(p.slots, (*Slot).ready) {
		return
	}
	from := p.current
	p.settings[ev.Generation] = ev.Settings
	p.current = ev.Generation
	for _, s := range p.slots {
		p.retireAll(s, ReasonRoll)
		s.Generation = ev.Generation
		s.failures, s.inRow = 0, 0
		if !s.leaving.gone {
			p.enter(s, StateLive, "")
		}
	}
	if !p.up {
		p.bootBy = p.now.Add(ev.Settings.Ready.Timeout)
	}
	p.do(FellBack{From: from, To: p.current, Why: f.why})
}

// fallbackLost says why there is no fallback after all. The present release goes on as if
// there had been none.
func (p *Pool) fallbackLost(reason string) {
	f := &p.fallback
	p.do(FellBack{From: p.current, To: f.to, Why: f.why, Err: reason})
	f.to = 0
	if !p.up {
		p.bootBy = f.bootBy
	}
}
