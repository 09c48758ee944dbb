package supervisor

import (
	"maps"
	"slices"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/ipc"
)

// past sums up the workers of a slot that have ended.
type past struct {
	counted  bool // one of them has counted
	counters ipc.Counters
	cpu      float64 // seconds: of the leaders and the children that they have waited for
}

// bury adds what a worker that has ended has counted and used to its slot's sums. Its page
// must be open still.
func (e *executor) bury(w *worker, exit process.Exit) {
	p := e.past[w.id.Slot]
	if c, counts := w.link.Counters(); counts {
		p.counted = true
		p.counters.Accepts += c.Accepts
		p.counters.Requests += c.Requests
		p.counters.Refused += c.Refused
	}
	p.cpu += exit.CPU.Seconds()
	e.past[w.id.Slot] = p
}

// figures sums up a snapshot that the meter has measured.
func (s *snapshot) figures(spent map[int]spent) control.Figures {
	f := control.Figures{App: s.app, Capacity: s.capacity, Limit: s.limit, Counts: s.counts}
	live := map[int]*control.Slot{}
	for i := range s.app.Slots {
		live[s.app.Slots[i].Slot] = &s.app.Slots[i]
	}
	numbers := slices.Collect(maps.Keys(live))
	for slot := range s.past {
		if live[slot] == nil {
			numbers = append(numbers, slot)
		}
	}
	slices.Sort(numbers)
	for _, slot := range numbers {
		one := control.SlotFigures{Slot: slot, Queues: s.queues[slot]}
		var workers []control.Worker
		if there := live[slot]; there != nil {
			workers = there.Workers
			one.Connections = control.Total(workers, func(w *control.Worker) *int64 { return w.Connections })
			one.RSSBytes = control.Total(workers, func(w *control.Worker) *int64 { return w.RSSBytes })
		}
		p := s.past[slot]
		count := func(ended uint64, figure func(*control.Worker) *int64) *int64 {
			now := control.Total(workers, figure)
			known := p.counted || slices.ContainsFunc(workers, func(w control.Worker) bool { return figure(&w) != nil })
			if now == nil || !known {
				return nil
			}
			return new(int64(ended) + *now)
		}
		one.Accepted = count(p.counters.Accepts, func(w *control.Worker) *int64 { return w.Accepted })
		one.Requests = count(p.counters.Requests, func(w *control.Worker) *int64 { return w.Requests })
		one.Refused = count(p.counters.Refused, func(w *control.Worker) *int64 { return w.Refused })
		one.CPUSeconds = spent[slot].all
		f.Slots = append(f.Slots, one)
	}
	return f
}
