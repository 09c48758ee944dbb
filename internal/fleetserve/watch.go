package fleetserve

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/fleet"
)

const (
	mostEvents  = 200              // that are kept of an app
	eventsSince = time.Hour        // that are looked for at the start
	eventsRetry = 10 * time.Second // after they could not be read
)

// errNotRead is the error of a state before the first read has ended.
var errNotRead = errors.New("it has not answered yet")

// watch reads one app again and again. Its goroutine alone makes the states.
type watch struct {
	*watches

	app    string
	now    atomic.Pointer[state]
	memory advise.Memory // where nobody leads
}

// seen is an event, or why none can be read, or with neither, that it is tried again.
type seen struct {
	fleet.Entry

	err error
}

// first is the newest state, after the first read, whether it has worked or not; the
// one before it if ctx ends.
func (w *watch) first(ctx context.Context) *state {
	return await(ctx, &w.now, func(s *state) (bool, <-chan struct{}) { return s.version > 0, s.newer })
}

// await is the newest value that is ready; if ctx ends before there is one, the newest. Each
// has a channel that is closed when there is a newer one.
func await[T any](ctx context.Context, from *atomic.Pointer[T], look func(*T) (ready bool, newer <-chan struct{})) *T {
	for {
		value := from.Load()
		ready, newer := look(value)
		if ready {
			return value
		}
		select {
		case <-newer:
		case <-ctx.Done():
			return value
		}
	}
}

// run reads and publishes until ctx ends. The last state says that it is the last.
func (w *watch) run(ctx context.Context) {
	events, following := make(chan seen), sync.WaitGroup{}
	defer following.Wait()
	tick := time.NewTicker(w.limits.period)
	defer tick.Stop()
	var news []seen // since the last state
	for follows := false; ctx.Err() == nil; {
		w.read(ctx, news)
		if s := w.now.Load(); !follows && !s.read.IsZero() {
			after := strconv.FormatInt(s.fleet.At.Add(-eventsSince).UnixMilli(), 10) + "-0"
			following.Go(func() { w.follow(ctx, after, events) })
			follows = true
		}
		news = nil
		for waiting := true; waiting; {
			select {
			case e := <-events:
				news = append(news[max(0, len(news)-mostEvents+1):], e)
			case <-tick.C:
				waiting = false
			case <-ctx.Done():
				waiting = false
			}
		}
	}
	last := w.now.Load()
	gone := *last
	gone.gone, gone.newer = true, make(chan struct{})
	w.now.Store(&gone)
	close(last.newer)
}

func (w *watch) read(ctx context.Context, news []seen) {
	timed, cancel := context.WithTimeout(ctx, w.limits.read)
	defer cancel()
	f, advice, err := w.config.Source.Scale(timed, w.app, w.config.Policy, &w.memory)
	if err != nil && ctx.Err() != nil {
		return
	}
	if limit := w.config.Policy.Limit; limit > 0 && err == nil {
		setCapacity(&f, limit)
	}
	last := w.now.Load()
	before := last.err
	if last.version == 0 {
		before = nil
	}
	w.note(before, err, "app", w.app)
	w.now.Store(last.next(reading{f, advice, err, time.Now(), news}, w.limits, w.common(w.watches.now.Load())))
	close(last.newer)
}

// setCapacity makes every host of a fleet hold as much as the policy says, whatever it
// reports.
func setCapacity(f *fleet.Fleet, limit int64) {
	for i := range f.Hosts {
		h := &f.Hosts[i]
		if h.Capacity, h.Utilization = &limit, nil; h.Connections != nil {
			h.Utilization = new(100 * float64(*h.Connections) / float64(limit))
		}
	}
	f.Totals = fleet.SumUp(f.Hosts)
}

type reading struct {
	fleet  fleet.Fleet
	advice advise.Advice
	err    error // the others are empty
	at     time.Time
	news   []seen
}

func (w *watch) follow(ctx context.Context, after string, to chan<- seen) {
	send := func(e seen) error {
		select {
		case to <- e:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for ctx.Err() == nil {
		err := w.config.Source.Events(ctx, w.app, after, true, func(e fleet.Entry) error {
			after = e.ID
			return send(seen{Entry: e})
		})
		if err == nil || send(seen{err: err}) != nil {
			return
		}
		select {
		case <-time.After(eventsRetry):
		case <-ctx.Done():
		}
		_ = send(seen{})
	}
}

// latest appends to a list and keeps the last so many. The list that it is given stays
// as it is.
func latest[T any](list []T, most int, more ...T) []T {
	all := slices.Concat(list, more)
	return all[max(0, len(all)-most):]
}
