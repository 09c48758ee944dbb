package pool

import "time"

// standBy asks all workers to go and none to follow: what SIGWINCH is for. The
// sockets stay open, and what connects waits until a roll brings workers back.
func (p *Pool) standBy() {
	if p.Stopping() {
		return
	}
	p.standby = true
	p.bootBy = time.Time{}
	p.cancelRolls("the app goes to standby")
}

// drainHost says whether balancers are to send new clients elsewhere. The
// workers serve on.
func (p *Pool) drainHost(draining bool, why string) {
	if p.hostDrain == draining || !draining && p.Stopping() {
		return
	}
	p.hostDrain = draining
	p.do(HostDrainChanged{Draining: draining, Why: why})
}

// inherit takes over processes that are in no worker's group: they have until the
// deadline to end.
func (p *Pool) inherit(ev Inherited) {
	p.left = append(p.left, leftover{id: ev.ID, deadline: ev.Deadline})
	if ev.Stop {
		p.do(StopGroup{ID: ev.ID})
	}
}
