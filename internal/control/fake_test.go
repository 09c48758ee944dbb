package control

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/forkd/forkd/internal/output"
)

// fake is a Backend with answers made up beforehand. What is nil answers with
// nothing in particular.
type fake struct {
	ring
	log output.Log

	app     App
	reload  func(context.Context, Reload) (Rolled, error)
	scale   func(Scale) (Scaled, error)
	drain   func(draining bool) error
	send    func(Message) (Sent, error)
	stop    func(now bool)
	execute func(Command) error
	figures func(context.Context) (Figures, error)

	mu    sync.Mutex
	asked int
}

func (f *fake) Status(context.Context) (App, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return f.app, nil
}

func (f *fake) Summary(ctx context.Context) (Summary, error) {
	app, err := f.Status(ctx)
	s := Summary{State: app.State, Generation: app.Generation, Wanted: app.Totals.Wanted, Ready: app.Totals.Ready, Connections: app.Totals.Connections}
	if app.HostDraining && app.State == StateReady {
		s.State = StateDraining
	}
	return s, err
}

func (f *fake) Describe(context.Context) (Description, error) { return Description{App: f.app}, nil }

func (f *fake) Reload(ctx context.Context, r Reload) (Rolled, error) {
	if f.reload == nil {
		return Rolled{Generation: 2, Result: ResultDone}, nil
	}
	return f.reload(ctx, r)
}

func (f *fake) Scale(_ context.Context, s Scale) (Scaled, error) {
	if f.scale == nil {
		return Scaled{From: 1, To: 1}, nil
	}
	return f.scale(s)
}

func (f *fake) DrainHost(_ context.Context, draining bool) error {
	if f.drain == nil {
		return nil
	}
	return f.drain(draining)
}

func (f *fake) Send(_ context.Context, m Message) (Sent, error) {
	if f.send == nil {
		return Sent{Workers: 1}, nil
	}
	return f.send(m)
}

func (f *fake) Execute(_ context.Context, c Command) error {
	if f.execute == nil {
		return nil
	}
	return f.execute(c)
}

func (f *fake) Stop(_ context.Context, now bool) error {
	if f.stop != nil {
		f.stop(now)
	}
	return nil
}

func sample() App {
	return App{App: "shop", PID: os.Getpid(), State: StateReady, Generation: 1, Listeners: []Listener{}, Slots: []Slot{}}
}

// Logs is part of Backend.
func (f *fake) Logs(_ context.Context, q output.Query) (Logs, error) {
	return Logs{Directory: "/var/log/shop", Page: f.log.Read(q)}, nil
}

// Figures is part of Backend.
func (f *fake) Figures(ctx context.Context) (Figures, error) {
	if f.figures != nil {
		return f.figures(ctx)
	}
	app, err := f.Status(ctx)
	return Figures{App: app}, err
}

// ring keeps the last few events, as a supervisor does.
type ring struct {
	keep int // 0: all

	lock sync.Mutex
	boot string
	last uint64
	kept []Event
	more chan struct{}
}

// happen adds an event.
func (r *ring) happen(kind, reason string) {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.last++
	r.kept = append(r.kept, Event{Seq: r.last, Time: time.Unix(int64(r.last), 0).UTC(), Host: "h", Type: kind, Reason: reason})
	if r.keep > 0 && len(r.kept) > r.keep {
		r.kept = r.kept[1:]
	}
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// Events is part of Backend.
func (r *ring) Events(_ context.Context, after uint64) (EventPage, error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.more == nil {
		r.more = make(chan struct{})
	}
	page := EventPage{Boot: "b" + r.boot, More: r.more}
	for _, e := range r.kept {
		if e.Seq > after {
			page.Events = append(page.Events, e)
		}
	}
	if len(r.kept) > 0 && r.kept[0].Seq > after+1 {
		page.Missed = r.kept[0].Seq - after - 1
	}
	return page, nil
}
