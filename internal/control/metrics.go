package control

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/openmetrics"
)

type text struct {
	kind string // Content-Type
	data []byte
}

func (a *api) metrics(_ http.ResponseWriter, r *http.Request, _ []byte) (int, any, error) {
	f, err := a.figures.get(r.Context(), a.backend, a.limits.fresh)
	if err != nil {
		return 0, nil, err
	}
	format := openmetrics.Negotiate(strings.Join(r.Header.Values("Accept"), ","))
	return http.StatusOK, text{format.ContentType(), appendMetrics(format, &f)}, nil
}

// figures are those that were got last, for all who ask within a time.
type figures struct {
	lock chan struct{} // of one place: taken by who reads them or gets others
	last Figures
	at   time.Time // zero: there are none yet
}

// get returns figures that are not older than fresh.
func (c *figures) get(ctx context.Context, b Backend, fresh time.Duration) (Figures, error) {
	select {
	case c.lock <- struct{}{}:
		defer func() { <-c.lock }()
	case <-ctx.Done():
		return Figures{}, ctx.Err()
	}
	if c.at.IsZero() || time.Since(c.at) >= fresh {
		f, err := b.Figures(ctx)
		if err != nil {
			return f, err
		}
		c.last, c.at = f, time.Now()
	}
	return c.last, nil
}

// appendMetrics writes figures by the names of docs/monitoring.md. What is not known is
// left out. No label has a pid or a generation: there would be no end of series.
func appendMetrics(format openmetrics.Format, f *Figures) []byte {
	m := openmetrics.Writer{Format: format}
	app := f.App.App
	one := func(name, help string, value float64) {
		m.Family(name, openmetrics.Gauge, help)
		m.Sample(value, "app", app)
	}
	m.Family("forkd_build", openmetrics.Info, "The forkd that runs the app.")
	m.Sample(1, "app", app, "version", f.App.Version)
	m.Family("forkd_workers", openmetrics.Gauge, "Live workers by state, and slots without one (backoff, exited, failed).")
	states := f.App.workersByState()
	for _, state := range []string{"starting", "ready", "draining", "backoff", "exited", "failed"} {
		m.Sample(float64(states[state]), "app", app, "state", state)
	}
	one("forkd_workers_wanted", "Slots that are wanted: each is to have a ready worker.", float64(f.App.Totals.Wanted))
	one("forkd_workers_stalled", "Ready workers that accept none of the connections that wait for them.", float64(states["stalled"]))
	one("forkd_generation", "The generation that the app runs; a roll makes the next.", float64(f.App.Generation))
	one("forkd_host_draining", "1 while the host asks for no new connections.", truth(f.App.HostDraining))
	one("forkd_roll_active", "1 while a roll is under way.", truth(f.App.Roll != nil))
	if f.Capacity != nil {
		one("forkd_capacity_connections", "Connections that the host can hold, by its configuration.", float64(*f.Capacity))
	}
	if f.App.Redis != nil {
		one("forkd_redis_up", "1 while the reports to Redis arrive.", truth(f.App.Redis.State == RedisUp))
	}
	bySlot(&m, f, "forkd_worker_connections", openmetrics.Gauge, "Open connections.", func(s *SlotFigures) *int64 { return s.Connections })
	bySlot(&m, f, "forkd_worker_resident_memory_bytes", openmetrics.Gauge, "Resident memory; a shared page counts in each process.", func(s *SlotFigures) *int64 { return s.RSSBytes })
	bySlot(&m, f, "forkd_worker_cpu_seconds", openmetrics.Counter, "Processor time that the slot's workers have used.", func(s *SlotFigures) *float64 { return s.CPUSeconds })
	bySlot(&m, f, "forkd_worker_connections_accepted", openmetrics.Counter, "Connections that the slot's workers have accepted.", func(s *SlotFigures) *int64 { return s.Accepted })
	bySlot(&m, f, "forkd_worker_connections_refused", openmetrics.Counter, "Connections that were beyond their share.", func(s *SlotFigures) *int64 { return s.Refused })
	bySlot(&m, f, "forkd_worker_requests", openmetrics.Counter, "Requests that the slot's workers have served.", func(s *SlotFigures) *int64 { return s.Requests })
	m.Family("forkd_listener_backlog", openmetrics.Gauge, "Connections that wait to be accepted; of a socket for all slots, as slot 0.")
	for i := range f.Slots {
		for _, listener := range sortedKeys(f.Slots[i].Queues) {
			m.Sample(float64(f.Slots[i].Queues[listener]), "app", app, "listener", listener, "slot", strconv.Itoa(f.Slots[i].Slot))
		}
	}
	m.Family("forkd_worker_restarts", openmetrics.Counter, "Workers that were started in the place of others, but for rolls.")
	for _, reason := range sortedKeys(f.Counts.Restarts) {
		m.Sample(float64(f.Counts.Restarts[reason]), "app", app, "reason", reason)
	}
	m.Family("forkd_rolls", openmetrics.Counter, "Rolls that have ended.")
	for _, result := range sortedKeys(f.Counts.Rolls) {
		m.Sample(float64(f.Counts.Rolls[result]), "app", app, "result", result)
	}
	return m.Bytes()
}

// bySlot writes a family with a sample for each slot of which the figure is known.
func bySlot[T int64 | float64](m *openmetrics.Writer, f *Figures, name string, kind openmetrics.Kind, help string, figure func(*SlotFigures) *T) {
	m.Family(name, kind, help)
	for i := range f.Slots {
		if value := figure(&f.Slots[i]); value != nil {
			m.Sample(float64(*value), "app", f.App.App, "slot", strconv.Itoa(f.Slots[i].Slot))
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// workersByState counts workers, and slots without one; stalled ones as "stalled" too.
func (a *App) workersByState() map[string]int {
	states := map[string]int{}
	for _, s := range a.Slots {
		for _, w := range s.Workers {
			states[w.State]++
			if w.Stalled {
				states["stalled"]++
			}
		}
		if len(s.Workers) == 0 {
			states[s.State]++
		}
	}
	return states
}
