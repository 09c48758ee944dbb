package supervisor

import (
	"iter"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/internal/usage"
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
	usage   func(leaders []int) map[int]usage.Figures
	last    map[int]sample // by pid
	counter counter
}

// sample is what was seen of a worker at a time.
type sample struct {
	at        time.Time
	startedAt time.Time // of the worker: pids are reused
	figures   usage.Figures
	requests  int64

	percent *float64 // computed
	rate    *float64
}

// measure fills in the figures of every worker of app.
func (m *meter) measure(app *control.App, where sockets.Counting, now time.Time) {
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
	for w := range workers(app) {
		one := m.last[w.PID]
		if isDue(w) {
			f, sampled := figures[w.PID]
			if !sampled {
				continue
			}
			one = next(one, w, f)
		}
		samples[w.PID] = one
		one.show(w)
	}
	m.last = samples
	m.counter.measure(app, where, now)
	app.Totals = control.Sum(app.Slots)
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
func next(last sample, w *control.Worker, f usage.Figures) sample {
	seen := sample{at: f.At, startedAt: w.StartedAt, figures: f}
	if w.Requests != nil {
		seen.requests = *w.Requests
	}
	if !last.startedAt.Equal(w.StartedAt) || f.At.Sub(last.at) > sampleMaxAge {
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
