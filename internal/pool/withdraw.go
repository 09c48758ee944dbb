package pool

import "time"

// withdraw asks all workers to go and none to follow: what SIGWINCH is for. The
// sockets stay open, and what connects waits until a roll brings workers back.
func (p *Pool) withdraw() {
	if p.Stopping() {
		return
	}
	p.withdrawn = true
	p.bootBy = time.Time{}
	p.cancelRolls("all workers are withdrawn")
}

// drainHost says whether balancers are to send new clients elsewhere. The
// workers serve on.
func (p *Pool) drainHost(draining bool, why string) {
	if p.hostDrain == draining || !draining && p.Stopping() {
		return
	}
	p.hostDrain = draining
	p.do(HostMoved{Draining: draining, Why: why})
}

// inherit takes over a process that a killed master has left: it has its drain's
// time to end. Its parent's death has told it to.
func (p *Pool) inherit(id ID, deadline time.Time) {
	p.left = append(p.left, leftover{id: id, deadline: deadline})
}
