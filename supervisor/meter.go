package supervisor

import (
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/process"
)

// fresh is how old the last look may be for figures per second to be taken from
// it. Beyond that they are the mean since the worker started.
const fresh = time.Minute

// meter adds what takes two looks: CPU and requests per second, and memory. It
// looks only while somebody asks, and is not for more than one goroutine.
type meter struct {
	usage process.Usage
	last  map[int]look // by pid
}

// look is what was seen of a worker at a time.
type look struct {
	at        time.Time
	startedAt time.Time // of whom: a pid is used again
	figures   process.Figures
	requests  int64

	percent *float64 // what was made of it
	rate    *float64
}

// measure fills in the figures of every worker of app.
func (m *meter) measure(app *control.App, now time.Time) {
	var pids []int
	for _, s := range app.Slots {
		for _, w := range s.Workers {
			pids = append(pids, w.PID)
		}
	}
	sample := m.usage.Sample(pids)
	looks := make(map[int]look, len(pids))
	for _, s := range app.Slots {
		for i := range s.Workers {
			w := &s.Workers[i]
			if f, known := sample[w.PID]; known {
				looks[w.PID] = m.worker(w, f, now)
			}
		}
	}
	m.last = looks
	app.Totals = control.Sum(app.Slots)
}

func (m *meter) worker(w *control.Worker, f process.Figures, now time.Time) look {
	seen := look{at: f.At, startedAt: w.StartedAt, figures: f}
	if w.Requests != nil {
		seen.requests = *w.Requests
	}
	w.RSSBytes, w.Stopped = new(int64(f.RSS)), f.Stopped
	before, known := m.last[w.PID]
	switch {
	case !known || !before.startedAt.Equal(w.StartedAt) || now.Sub(before.at) > fresh:
		before = look{at: w.StartedAt}
	case !seen.at.After(before.at): // no look of its own: what was found last still holds
		seen = before
	}
	if seconds := seen.at.Sub(before.at).Seconds(); seconds > 0 {
		seen.percent = new(100 * f.CPUSince(before.figures) / seconds)
		seen.rate = new(max(0, float64(seen.requests-before.requests)/seconds))
	}
	w.CPUPercent = seen.percent
	if w.Requests != nil {
		w.RequestsPerSecond = seen.rate
	}
	return seen
}
