package supervisor

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

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
		p.counters.MovedIn += c.MovedIn
		p.counters.MovedOut += c.MovedOut
		w.moved = c.MovedOut
	}
	p.cpu += exit.CPU.Seconds()
	e.past[w.id.Slot] = p
}

func (s *snapshot) figures() control.Figures {
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
		one.CPUSeconds = s.spent[slot]
		f.Slots = append(f.Slots, one)
	}
	return f
}

const (
	// measureInterval is the least time between two samples of a worker: figures per
	// second are over at least that, and all who ask meanwhile get the same.
	measureInterval = time.Second
	// leastSample is the least time that figures per second are taken over: processor time
	// comes in ticks of 10 ms (proc_pid_stat(5)).
	leastSample = 200 * time.Millisecond
	// sampleMaxAge is how old the last sample may be for figures per second to be
	// taken from it. Beyond that they are the mean since the worker started.
	sampleMaxAge = time.Minute
)

// meter adds what takes two samples: CPU and requests per second, memory, and what is
// counted from outside. It samples only while somebody asks, and is not for more than one
// goroutine.
type meter struct {
	usage   func(leaders []int) map[int]process.Figures
	last    map[int]sample // by pid
	counter counter
	spent   map[int]float64 // seconds, by slot
}

// sample is what was seen of a worker at a time.
type sample struct {
	at        time.Time
	startedAt time.Time // of the worker: pids are reused
	figures   process.Figures
	requests  int64
	cpu       float64 // seconds, since the worker's start; never falls

	percent *float64 // computed
	rate    *float64
}

func (m *meter) measure(s *snapshot, now time.Time) {
	app := &s.app
	isDue := func(w *control.Worker) bool {
		last, known := m.last[w.PID]
		return !known || !last.startedAt.Equal(w.StartedAt) || now.Sub(last.at) >= measureInterval
	}
	var due []int
	for w := range workers(app) {
		if isDue(w) {
			due = append(due, w.PID)
		}
	}
	figures := m.usage(due)
	samples := make(map[int]sample, len(m.last))
	for _, slot := range app.Slots {
		for i := range slot.Workers {
			w := &slot.Workers[i]
			one, known := m.last[w.PID]
			f, sampled := figures[w.PID]
			switch {
			case sampled:
				one = next(one, w, f)
			case !known || !one.startedAt.Equal(w.StartedAt):
				continue
			}
			samples[w.PID] = one
			if sampled || !isDue(w) {
				one.show(w)
			}
		}
	}
	m.spend(s, samples)
	m.last = samples
	m.counter.measure(app, s.counting, now)
	app.Totals = control.Sum(app.Slots)
	for slot, p := range s.past { // what slots that are gone have handed over counts on
		if p.counted && !slices.ContainsFunc(app.Slots, func(one control.Slot) bool { return one.Slot == slot }) {
			app.Totals.Moved = new(int64(p.counters.MovedOut) + *cmp.Or(app.Totals.Moved, new(int64)))
		}
	}
}

// spend sums up processor time, in seconds: of a slot's workers that have ended, by what the
// kernel says of them, and of those that live. It never falls, although the kernel does not
// tell of processes that nobody had waited for when their worker ended.
func (m *meter) spend(s *snapshot, samples map[int]sample) {
	sums, unknown := map[int]float64{}, map[int]bool{}
	for slot, p := range s.past {
		sums[slot] = p.cpu
	}
	for _, slot := range s.app.Slots {
		sums[slot.Slot] += 0
		for _, w := range slot.Workers {
			one, seen := samples[w.PID]
			sums[slot.Slot] += one.cpu
			unknown[slot.Slot] = unknown[slot.Slot] || !seen && w.State != control.StateStarting
		}
	}
	s.spent = map[int]*float64{}
	for slot, sum := range sums {
		sums[slot] = max(sum, m.spent[slot])
		if !unknown[slot] {
			s.spent[slot] = new(sums[slot])
		}
	}
	m.spent = sums
}

func workers(app *control.App) iter.Seq[*control.Worker] {
	return func(yield func(*control.Worker) bool) {
		for _, s := range app.Slots {
			for i := range s.Workers {
				if !yield(&s.Workers[i]) {
					return
				}
			}
		}
	}
}

// next is the sample after last, which may be nobody's or another worker's.
func next(last sample, w *control.Worker, f process.Figures) sample {
	seen := sample{at: f.At, startedAt: w.StartedAt, figures: f}
	if w.Requests != nil {
		seen.requests = *w.Requests
	}
	if !last.startedAt.Equal(w.StartedAt) {
		last = sample{at: w.StartedAt}
	}
	seen.cpu = last.cpu + f.CPUSince(last.figures)
	if f.At.Sub(last.at) > sampleMaxAge {
		last = sample{at: w.StartedAt}
	}
	if over := seen.at.Sub(last.at); over >= leastSample {
		seconds := over.Seconds()
		seen.percent = new(100 * f.CPUSince(last.figures) / seconds)
		seen.rate = new(max(0, float64(seen.requests-last.requests)/seconds))
	}
	return seen
}

func (s *sample) show(w *control.Worker) {
	w.RSSBytes, w.Stopped = new(int64(s.figures.RSS)), s.figures.Stopped
	w.CPUPercent = s.percent
	if w.Requests != nil {
		w.RequestsPerSecond = s.rate
	}
}
