package pool

import "time"

// standBy drains all workers and starts none until the next roll (SIGWINCH). The
// sockets stay open: new connections wait in their queues.
func (p *Pool) standBy() {
	if p.Stopping() {
		return
	}
	p.standby = true
	p.bootBy = time.Time{}
	p.cancelRolls("the app goes to standby")
}

// drainHost advertises the host as draining, or no longer. The workers serve on.
func (p *Pool) drainHost(draining bool, why string) {
	if p.hostDrain == draining || !draining && p.Stopping() {
		return
	}
	p.hostDrain = draining
	p.do(HostDrainChanged{Draining: draining, Why: why})
}

// inherit records left-over processes outside of every worker's group.
func (p *Pool) inherit(ev Inherited) {
	p.left = append(p.left, leftover{id: ev.ID, deadline: ev.Deadline})
	if ev.Stop {
		p.do(StopGroup{ID: ev.ID})
	}
}
