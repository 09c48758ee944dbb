package supervisor

import (
	"slices"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
)

// counter counts the connections of workers that do not do so themselves: those of the
// listeners' addresses, as sock_diag shows them, that a worker's processes have or that
// carry its slot's mark. It is not for more than one goroutine.
type counter struct {
	due     time.Time          // of the next sample
	last    map[int]count      // by pid
	pending chan map[int]count // a sample is being taken; nil: none is
	began   time.Time          // of that
}

// count is how many connections a worker had at the last sample.
type count struct {
	startedAt   time.Time // of the worker: pids are reused
	by          string    // control.Worker.Counted
	connections int64
}

// counterShare is how much longer than a sample the time to the next is: it takes 5 % of a
// CPU at most.
const counterShare = 20

// counterPatience is how long a sample is waited for, by all who ask together, who come one
// after the other, before the last one must do.
const counterPatience = 200 * time.Millisecond

// countable is a worker that is counted.
type countable struct {
	*control.Worker
	slot  int
	alone bool // nobody else has the slot's sockets
}

// measure fills in the connections of those that do not count them, by a sample that may be
// old. A worker that has not been seen, or can't be, has none.
func (c *counter) measure(app *control.App, where sockets.Counting, now time.Time) {
	var all []countable
	for _, s := range app.Slots {
		for i := range s.Workers {
			if w := &s.Workers[i]; w.Counted == "no" && w.State != control.StateStarting { // it may count soon
				all = append(all, countable{w, s.Slot, len(s.Workers) == 1 && len(app.Leftovers) == 0})
			}
		}
	}
	if len(all) == 0 {
		return
	}
	if c.pending == nil && !now.Before(c.due) {
		c.pending, c.began = make(chan map[int]count, 1), now
		go func(to chan<- map[int]count, all []countable) {
			if connections, err := where.Connections(); err != nil {
				to <- nil // they can't be seen
			} else {
				to <- counts(connections, where, all, process.Held)
			}
		}(c.pending, slices.Clone(all))
	}
	if c.pending != nil {
		select {
		case c.last = <-c.pending:
			c.pending = nil
			c.due = now.Add(max(measureInterval, counterShare*time.Since(c.began)))
		case <-time.After(max(time.Millisecond, counterPatience-now.Sub(c.began))): // the worker may have very many descriptors
		}
	}
	for _, w := range all {
		if seen, known := c.last[w.PID]; known && seen.startedAt.Equal(w.StartedAt) {
			w.Counted, w.Connections = seen.by, new(seen.connections)
		}
	}
}

// counts divides connections up. One with a mark is the slot's worker's, if that is alone;
// all others are looked for in the processes. A worker is absent if they can't be seen.
func counts(
	all []sockets.Connection, where sockets.Counting,
	workers []countable, held func(leaders []int, sockets []uint32) map[int][]uint32,
) map[int]count {
	slots, marked := map[int]bool{}, map[int]int64{} // whether its worker is alone; its connections
	for _, w := range workers {
		slots[w.slot] = w.alone
	}
	var rest []sockets.Connection
	anybodys := false // some of the rest
	for _, c := range all {
		slot := where.Slot(c)
		switch alone, counts := slots[slot]; {
		case slot < 0:
			anybodys = true
			rest = append(rest, c)
		case alone:
			marked[slot]++
		case counts:
			rest = append(rest, c)
		}
	}
	var leaders []int
	for _, w := range workers {
		if len(rest) > 0 && (anybodys || !w.alone) {
			leaders = append(leaders, w.PID)
		}
	}
	there := held(leaders, inodesOf(rest))
	found := make(map[int]count, len(workers))
	for _, w := range workers {
		one := count{w.StartedAt, "sampled", marked[w.slot]}
		if where.Marks() && w.alone && !anybodys {
			one.by = "kernel"
		}
		if slices.Contains(leaders, w.PID) {
			theirs, known := there[w.PID]
			if !known {
				continue
			}
			one.connections += int64(len(theirs))
		}
		found[w.PID] = one
	}
	return found
}
