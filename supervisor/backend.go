package supervisor

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/ipc"
)

// backend answers the control socket. It asks the loop, and holds nothing of
// the app's but the last look at its figures.
type backend struct {
	loop *loop
	host *host
	tell func(happening) bool // the loop's

	mu    sync.Mutex // one look at a time: the meter compares with the one before
	meter meter
}

// ask has f run on the loop's goroutine and returns what it found. Nothing is run
// any more for a client that has gone.
func ask[T any](ctx context.Context, b *backend, f func() T) (T, error) {
	found := make(chan T, 1)
	go b.tell(func() pool.Event {
		if ctx.Err() == nil {
			found <- f()
		}
		return nil
	})
	var none T
	select {
	case v := <-found:
		return v, nil
	case <-b.loop.done:
		return none, errStopped
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// order is ask for what can be refused.
func order(ctx context.Context, b *backend, f func() error) error {
	refused, err := ask(ctx, b, f)
	if err != nil {
		return err
	}
	return refused
}

// errStopped answers what comes after the end.
var errStopped = &control.Error{Code: http.StatusServiceUnavailable, Text: "the app has stopped"}

// Status implements control.Backend.
func (b *backend) Status(ctx context.Context) (control.App, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	app, err := ask(ctx, b, func() control.App { return b.host.snapshot(b.loop.pool.View()) })
	if err != nil {
		return control.App{}, err
	}
	b.meter.measure(&app, time.Now())
	return app, nil
}

// Health implements control.Backend.
func (b *backend) Health(ctx context.Context) (state string, err error) {
	return ask(ctx, b, func() string { return b.loop.pool.Summary().State })
}

// Describe implements control.Backend.
func (b *backend) Describe(ctx context.Context) (control.Description, error) {
	app, err := b.Status(ctx)
	if err != nil {
		return control.Description{}, err
	}
	d, err := ask(ctx, b, func() control.Description { return b.host.description(b.loop.pool.View()) })
	d.App = app
	return d, err
}

// Events implements control.Backend. After the loop's end, what it has left is
// read: nobody writes there any more.
func (b *backend) Events(ctx context.Context, after uint64) (control.EventPage, error) {
	page, err := ask(ctx, b, func() control.EventPage { return b.loop.events.After(after) })
	if err == nil {
		return page, nil
	}
	select {
	case <-b.loop.done:
		return b.loop.events.After(after), nil
	default:
		return page, err
	}
}

// Scale implements control.Backend.
func (b *backend) Scale(ctx context.Context, s control.Scale) (scaled control.Scaled, err error) {
	type answer struct {
		control.Scaled
		refused error
	}
	a, err := ask(ctx, b, func() (a answer) {
		a.Scaled, a.refused = b.scale(s)
		return a
	})
	if err == nil {
		err = a.refused
	}
	return a.Scaled, err
}

// scale runs on the loop's goroutine, as drain does.
func (b *backend) scale(s control.Scale) (scaled control.Scaled, err error) {
	v := b.loop.pool.Summary()
	scaled.From = v.Wanted
	if scaled.To, err = s.Workers(v.Wanted, b.host.current(v.Generation).cfg.CPUs); err == nil {
		err = conflict(b.loop.scale(scaled.To))
	}
	return scaled, err
}

func (b *backend) drain(draining bool) error {
	if b.loop.pool.Stopping() {
		return conflict(errors.New("the app is stopping"))
	}
	b.loop.step(pool.HostDrainRequested{Draining: draining})
	return nil
}

// conflict is a refusal by the state that the app is in.
func conflict(err error) error {
	if err == nil {
		return nil
	}
	return &control.Error{Code: http.StatusConflict, Text: err.Error()}
}

// DrainHost implements control.Backend.
func (b *backend) DrainHost(ctx context.Context, draining bool) error {
	return order(ctx, b, func() error { return b.drain(draining) })
}

// Send implements control.Backend.
func (b *backend) Send(ctx context.Context, m control.Message) (sent control.Sent, err error) {
	type answer struct {
		workers int
		refused error
	}
	a, err := ask(ctx, b, func() (a answer) {
		a.workers, a.refused = b.host.send(m.Slot, ipc.App(m.Message))
		return a
	})
	if err == nil {
		err = a.refused
	}
	return control.Sent{Workers: a.workers}, err
}

// Reload implements control.Backend.
func (b *backend) Reload(ctx context.Context, r control.Reload) (control.Rolled, error) {
	w, err := ask(ctx, b, func() *waiting { return b.loop.requestRoll(!r.KeepConfig) })
	switch {
	case err != nil:
		return control.Rolled{}, err
	case !r.Wait && w.generation != 0:
		return control.Rolled{Generation: w.generation}, nil
	}
	select {
	case <-w.ended:
		o := w.outcome
		return control.Rolled{Generation: o.generation, Result: string(o.result), Error: o.why}, nil
	case <-ctx.Done():
		return control.Rolled{}, ctx.Err()
	}
}

// Stop implements control.Backend.
func (b *backend) Stop(ctx context.Context, now bool) error {
	err := order(ctx, b, func() error {
		b.loop.step(pool.StopRequested{Now: now})
		return nil
	})
	if errors.Is(err, errStopped) || ctx.Err() != nil {
		return nil // the app ended before this could be answered, or nobody waits for the answer
	}
	return err
}
