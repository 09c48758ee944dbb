package supervisor

import (
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/ipc"
)

// handOver has a draining worker hand its idle connections to the worker that follows it;
// where its slot leaves, to the one with the fewest connections.
func (e *executor) handOver(from *worker) {
	var to *worker
	var fewest uint64
	for _, id := range e.pool.Takers(from.id) {
		if w := e.workers[id]; w != nil {
			c, _ := w.link.Counters()
			if to == nil || c.Open < fewest {
				to, fewest = w, c.Open
			}
		}
	}
	if to == nil || !from.cfg.Drain.Handoff {
		return
	}
	if err := from.link.Join(to.link); err != nil {
		e.log.Warn("connections are not handed over: they drain", "slot", from.id.Slot, "pid", from.process.PID(), "why", err)
	}
}

// handOverAgain does so for the workers of a slot that drain already: their successor has
// one now.
func (e *executor) handOverAgain(to pool.ID) {
	for _, w := range e.workers {
		if w.draining && w.id.Slot == to.Slot && w.id != to {
			e.handOver(w)
		}
	}
}

// counters reads the pages of all workers. A connection that is being handed over is
// counted by both for a moment; here it counts for the one that has it.
func (e *executor) counters() map[pool.ID]ipc.Counters {
	all := make(map[pool.ID]ipc.Counters, len(e.workers))
	in, out, moving := uint64(0), uint64(0), false
	for _, p := range e.past {
		in, out = in+p.counters.MovedIn, out+p.counters.MovedOut
	}
	for id, w := range e.workers {
		if c, counts := w.link.Counters(); counts {
			all[id] = c
			in, out = in+c.MovedIn, out+c.MovedOut
			moving = moving || w.draining
		}
	}
	if !moving {
		e.halfMoved = int64(in - out) // by workers that died meanwhile
	}
	twice := int64(in-out) - e.halfMoved
	for id, c := range all {
		if e.workers[id].draining && twice > 0 {
			n := min(uint64(twice), c.Open)
			c.Open -= n
			twice -= int64(n)
			all[id] = c
		}
	}
	return all
}
