package supervisor

import (
	"cmp"
	"maps"
	"slices"

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
// counted by both workers for a moment; here it counts for the one that takes it. Those that
// hand over are read first, so that none is missed.
func (e *executor) counters() map[pool.ID]ipc.Counters {
	place := func(w *worker) int {
		if w.draining {
			return 0
		}
		return 1
	}
	workers := slices.SortedFunc(maps.Values(e.workers), func(a, b *worker) int {
		return cmp.Or(place(a)-place(b), a.id.Generation-b.id.Generation, a.id.Attempt-b.id.Attempt)
	})
	all := make(map[pool.ID]ipc.Counters, len(workers))
	var twice int64
	for _, p := range e.past {
		twice += int64(p.counters.MovedIn) - int64(p.counters.MovedOut)
	}
	for _, w := range workers {
		if c, counts := w.link.Counters(); counts {
			all[w.id] = c
			twice += int64(c.MovedIn) - int64(c.MovedOut)
		}
	}
	if len(workers) == 0 || !workers[0].draining {
		e.halfMoved = twice // by workers that died meanwhile
	}
	twice -= e.halfMoved
	for _, w := range workers {
		if c, counts := all[w.id]; counts && w.draining && twice > 0 {
			n := min(uint64(twice), c.Open)
			c.Open -= n
			twice -= int64(n)
			all[w.id] = c
		}
	}
	return all
}
