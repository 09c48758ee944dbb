package supervisor

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/ipc"
)

// backend is the control API's way to the loop: it implements control.Backend.
type backend struct {
	loop      *loop
	logged    *output.Log
	elsewhere string // where the workers write to; "": to the log

	mu    sync.Mutex // one sample at a time: the meter compares with the one before
	meter meter

	connections atomic.Pointer[int64] // of the last Status: they may have been counted from outside
}

// errStopped answers what comes after the end.
var errStopped = &control.Error{Code: http.StatusServiceUnavailable, Text: "the app has stopped"}

// conflict is a refusal by the state that the app is in.
func conflict(err error) error {
	if err == nil {
		return nil
	}
	return &control.Error{Code: http.StatusConflict, Text: err.Error()}
}

func (b *backend) Status(ctx context.Context) (control.App, error) {
	f, err := b.Figures(ctx)
	return f.App, err
}

func (b *backend) Figures(ctx context.Context) (control.Figures, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := ask(ctx, b.loop, func() (snapshot, error) { return b.loop.executor.snapshot(b.loop.pool.View()), nil })
	if err != nil {
		return control.Figures{}, err
	}
	b.meter.measure(&s, time.Now())
	b.connections.Store(s.app.Totals.Connections)
	return s.figures(), nil
}

func (b *backend) Summary(ctx context.Context) (control.Summary, error) {
	s, err := ask(ctx, b.loop, func() (control.Summary, error) {
		s := b.loop.executor.summary(b.loop.pool.Summary())
		s.EventSeq = b.loop.events.Seq()
		return s, nil
	})
	if s.Connections == nil {
		s.Connections = b.connections.Load()
	}
	return s, err
}

func (b *backend) Describe(ctx context.Context) (control.Description, error) {
	app, err := b.Status(ctx)
	if err != nil {
		return control.Description{}, err
	}
	d, err := ask(ctx, b.loop, func() (control.Description, error) { return b.loop.executor.description(b.loop.pool.View()), nil })
	d.App = app
	return d, err
}

// Events reads what the loop has left after its end: nobody writes there any more.
func (b *backend) Events(ctx context.Context, after uint64) (control.EventPage, error) {
	page, err := ask(ctx, b.loop, func() (control.EventPage, error) { return b.loop.events.After(after), nil })
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

// Logs has nothing to do with the loop.
func (b *backend) Logs(ctx context.Context, q output.Query) (control.Logs, error) {
	if b.elsewhere != "" {
		return control.Logs{}, &control.Error{Code: http.StatusConflict, Text: b.elsewhere}
	}
	q.Left = ctx.Done()
	return control.Logs{Directory: b.logged.Directory(), Page: b.logged.Read(q)}, nil
}

func (b *backend) Scale(ctx context.Context, s control.Scale) (control.Scaled, error) {
	return ask(ctx, b.loop, func() (control.Scaled, error) { return b.loop.scale(s, "scale") })
}

func (b *backend) DrainHost(ctx context.Context, draining bool) error {
	by := "resume"
	if draining {
		by = "drain"
	}
	_, err := ask(ctx, b.loop, func() (nothing, error) { return nothing{}, b.loop.drain(draining, by) })
	return err
}

func (b *backend) Send(ctx context.Context, m control.Message) (control.Sent, error) {
	return ask(ctx, b.loop, func() (control.Sent, error) {
		n, err := b.loop.executor.send(m.Slot, ipc.App(m.Message))
		return control.Sent{Workers: n}, err
	})
}

func (b *backend) Execute(ctx context.Context, c control.Command) error {
	_, err := ask(ctx, b.loop, func() (nothing, error) {
		b.loop.events.By = "" // the command's id says it
		return nothing{}, b.loop.execute(c)
	})
	return err
}

func (b *backend) Reload(ctx context.Context, r control.Reload) (control.Rolled, error) {
	w, err := ask(ctx, b.loop, func() (*rollWaiter, error) {
		if r.Slot != nil {
			return b.loop.requestReplacement(*r.Slot)
		}
		return b.loop.requestRoll(!r.KeepConfig), nil
	})
	switch {
	case err != nil:
		return control.Rolled{}, err
	case !r.Wait && w.generation != 0:
		return control.Rolled{Generation: w.generation}, nil
	}
	select {
	case <-w.ended:
		return rolled(w.result), nil
	case <-ctx.Done():
		return control.Rolled{}, ctx.Err()
	}
}

func (b *backend) Stop(ctx context.Context, now bool) error {
	_, err := ask(ctx, b.loop, func() (nothing, error) { b.loop.step(pool.StopRequested{Now: now}); return nothing{}, nil })
	if errors.Is(err, errStopped) || ctx.Err() != nil {
		return nil // the app ended before this could be answered, or nobody waits for the answer
	}
	return err
}
