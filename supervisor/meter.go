package supervisor

import (
	"iter"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/process"
)

const (
	// measureInterval is the least time between two samples of a worker: figures per
	// second are over at least that, and all who ask meanwhile get the same.
	measureInterval = time.Second
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
	spent   map[int]spent // by slot
}

// sample is what was seen of a worker at a time.
type sample struct {
	at        time.Time
	startedAt time.Time // of the worker: pids are reused
	slot      int
	figures   process.Figures
	requests  int64
	cpu       float64 // seconds, since the worker's start; never falls

	percent *float64 // computed
	rate    *float64
}

// measure fills in the figures of every worker of s.
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
				one.slot = slot.Slot
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
}

// spent is the processor time of a slot's workers, in seconds.
type spent struct {
	ended  float64  // of those that have ended, by what the kernel says of them: past.cpu
	unsaid float64  // what was seen of those beyond that: of processes that nobody had waited for
	all    *float64 // with those that live; nil: not known, or the slot is gone
}

// spend sums up processor time, before m.last is replaced by samples: no worker's end may
// lower it.
func (m *meter) spend(s *snapshot, samples map[int]sample) {
	gone := map[int]float64{} // by slot: what had been seen of those that have ended since
	for pid, last := range m.last {
		if !samples[pid].startedAt.Equal(last.startedAt) {
			gone[last.slot] += last.cpu
		}
	}
	sums := map[int]spent{}
	sum := func(slot int, workers []control.Worker) {
		before, ended := m.spent[slot], s.past[slot].cpu
		now := spent{ended: ended, unsaid: before.unsaid + max(0, gone[slot]-(ended-before.ended))}
		all, known := now.ended+now.unsaid, true
		for _, w := range workers {
			one, seen := samples[w.PID]
			all += one.cpu
			known = known && (seen || w.State == control.StateStarting)
		}
		if known {
			now.all = &all
		}
		sums[slot] = now
	}
	for slot := range s.past {
		sum(slot, nil)
	}
	for _, slot := range s.app.Slots {
		sum(slot.Slot, slot.Workers)
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
	if seconds := seen.at.Sub(last.at).Seconds(); seconds > 0 {
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
