package supervisor

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
)

// backend answers the control socket. It asks the loop, and holds nothing of
// the app's but the last look at its figures.
type backend struct {
	loop *loop
	host *host

	mu    sync.Mutex // one look at a time: the meter compares with the one before
	meter meter
}

// ask has f run on the loop's goroutine and waits for it.
func (b *backend) ask(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	go b.loop.tell(func() pool.Event {
		defer close(ran)
		f()
		return nil
	})
	select {
	case <-ran:
		return nil
	case <-b.loop.done:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errStopped answers what comes after the end.
var errStopped = &control.Error{Code: http.StatusServiceUnavailable, Text: "the app has stopped"}

// Status implements control.Backend.
func (b *backend) Status(ctx context.Context) (control.App, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var app control.App
	if err := b.ask(ctx, func() { app = b.host.snapshot(b.loop.pool.View()) }); err != nil {
		return control.App{}, err
	}
	b.meter.measure(&app, time.Now())
	return app, nil
}

// Reload implements control.Backend.
func (b *backend) Reload(ctx context.Context, r control.Reload) (control.Rolled, error) {
	if !r.KeepConfig {
		return control.Rolled{}, &control.Error{
			Code: http.StatusServiceUnavailable,
			Text: "reading the configuration again is not built yet: use --keep-config, which rolls with the one that was read",
		}
	}
	var generation int
	var end <-chan outcome
	if err := b.ask(ctx, func() { generation, end = b.loop.requestRoll() }); err != nil {
		return control.Rolled{}, err
	}
	if !r.Wait && generation != 0 {
		return control.Rolled{Generation: generation}, nil
	}
	select {
	case o := <-end:
		return control.Rolled{Generation: o.generation, Result: string(o.result), Error: o.why}, nil
	case <-ctx.Done():
		return control.Rolled{}, ctx.Err()
	}
}

// Stop implements control.Backend.
func (b *backend) Stop(ctx context.Context, now bool) error {
	return b.ask(ctx, func() { b.loop.step(pool.StopRequested{Now: now}) })
}
