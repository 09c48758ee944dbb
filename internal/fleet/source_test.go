package fleet_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// An app is what a test reports: it says what it is told to say, and notes what
// it is asked and ordered.
type app struct {
	mu       sync.Mutex
	status   control.App
	boot     string
	events   []control.Event
	forgot   uint64 // of the events, the first so many are not kept any more
	more     chan struct{}
	commands []control.Command
	statuses int
}

// newApp makes an app with so many workers, each with ten connections.
func newApp(boot string, workers int) *app {
	a := &app{boot: boot, more: make(chan struct{})}
	a.status = control.App{App: "shop", PID: 4711, Version: "v1.2.3", StartedAt: time.Now().Add(-time.Hour), Generation: 1, State: control.StateReady}
	a.status.Listeners = []control.Listener{{Name: "http", Address: "tcp://:8080", Mode: "reuseport", Balance: "hash", Source: "bound"}}
	for i := range workers {
		at := a.status.StartedAt
		a.status.Slots = append(a.status.Slots, control.Slot{Slot: i, State: control.StateReady, Workers: []control.Worker{{
			PID: 5000 + i, Generation: 1, State: control.StateReady, StartedAt: at, ReadyAt: &at, Counted: "worker",
			Connections: new(int64(10)), Accepted: new(int64(100)), Requests: new(int64(1000)), Refused: new(int64(0)),
			Queue: new(int64(0)), CPUPercent: new(1.5), RSSBytes: new(int64(1 << 20)),
		}}})
	}
	a.status.Totals = control.Sum(a.status.Slots)
	return a
}

func (a *app) Summary(context.Context) (control.Summary, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	return control.Summary{State: s.State, Generation: s.Generation, Ready: s.Totals.Ready, Connections: s.Totals.Connections}, nil
}

func (a *app) Status(context.Context) (control.App, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.statuses++
	s := a.status
	s.Slots = slices.Clone(s.Slots) // change replaces workers, it does not write into them
	return s, nil
}

func (a *app) Events(_ context.Context, after uint64) (control.EventPage, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	page := control.EventPage{Boot: a.boot, More: a.more}
	if after < a.forgot {
		page.Missed, after = a.forgot-after, a.forgot
	}
	if after < uint64(len(a.events)) {
		page.Events = slices.Clone(a.events[after:])
	}
	return page, nil
}

func (a *app) Execute(_ context.Context, c control.Command) error {
	if c.Refused != "" {
		return nil
	}
	a.mu.Lock()
	known := slices.ContainsFunc(a.commands, func(b control.Command) bool { return b.ID == c.ID })
	if !known {
		a.commands = append(a.commands, c)
	}
	a.mu.Unlock()
	if !known {
		a.record(control.Event{Type: "scaled", Reason: "done", Command: c.ID})
	}
	return nil
}

// happen adds an event.
func (a *app) happen(kind, reason string) { a.record(control.Event{Type: kind, Reason: reason}) }

func (a *app) record(e control.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.Seq, e.Time, e.Host = uint64(len(a.events)+1), time.Now(), "web-1"
	a.events = append(a.events, e)
	close(a.more)
	a.more = make(chan struct{})
}

// hold gives the worker of slot 0 so many connections.
func (a *app) hold(connections int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	slots := slices.Clone(a.status.Slots)
	w := slots[0].Workers[0]
	w.Connections = &connections
	slots[0].Workers = []control.Worker{w}
	a.status.Slots = slots
	a.status.Totals = control.Sum(slots)
}

func (a *app) connections() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprint(*a.status.Totals.Connections)
}

// obeyed are the ids of the commands that have come, in their order.
func (a *app) obeyed() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var ids []string
	for _, c := range a.commands {
		ids = append(ids, c.ID)
	}
	return ids
}

// A report is an app that is reported to Redis as a test goes on.
type report struct {
	*app
	*fleet.Reporter

	host string
	log  *journal
}

// A journal keeps what the reporter logs.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

var _ io.Writer = (*journal)(nil)

// often is the interval of tests that don't look at it.
const often = 200 * time.Millisecond

// startReport begins to report. It ends, without leave, with the test.
func startReport(t testing.TB, a *app, s fleet.Settings) *report {
	t.Helper()
	if s.HostID == "" {
		s.HostID = "web-1"
	}
	if s.Interval == 0 {
		s.Interval = often
	}
	if s.TTL == 0 {
		s.TTL = time.Minute // no stall makes a host vanish
	}
	log := &journal{}
	r, err := fleet.Start(s, fleet.App{Name: "shop", Boot: a.boot, StartedAt: a.status.StartedAt}, a, slog.New(slog.NewTextHandler(log, nil)), func(control.Redis) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		r.Close(ctx, false)
		if t.Failed() {
			t.Logf("the reporter's log:\n%s", log)
		}
	})
	return &report{app: a, Reporter: r, host: s.HostID, log: log}
}

func (r *report) key() string { return "forkd:{shop}:host:" + r.host }

// is waits until the report is in a state.
func (r *report) is(t testing.TB, state string) control.Redis {
	t.Helper()
	var h control.Redis
	until(t, "a report that is "+state, func() error {
		if h = r.Health(); h.State != state {
			return fmt.Errorf("it is %q since %v: %s", h.State, h.Since, h.Error)
		}
		return nil
	})
	return h
}

// seen waits until Redis has a complete report with the connections that the app
// has now, and returns it.
func (r *report) seen(t testing.TB, s *server) map[string]string {
	t.Helper()
	var hash map[string]string
	until(t, "a complete report", func() error {
		reply, err := s.try("HGETALL", r.key())
		if err != nil {
			return err
		}
		hash = pairs(t, reply)
		return r.complete(hash)
	})
	return hash
}

// complete reports what a hash lacks.
func (r *report) complete(hash map[string]string) error {
	if len(hash) == 0 {
		return fmt.Errorf("%s is not there", r.key())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for field, want := range map[string]string{
		"schema": "1", "host": r.host, "boot": r.boot, "state": r.status.State, "version": r.status.Version,
		"generation":  fmt.Sprint(r.status.Generation),
		"wanted":      fmt.Sprint(r.status.Totals.Wanted),
		"ready":       fmt.Sprint(r.status.Totals.Ready),
		"connections": fmt.Sprint(*r.status.Totals.Connections),
		"requests":    fmt.Sprint(*r.status.Totals.Requests),
		"rss_bytes":   fmt.Sprint(*r.status.Totals.RSSBytes),
		"started_at":  fmt.Sprint(r.status.StartedAt.UnixMilli()),
	} {
		if hash[field] != want {
			return fmt.Errorf("%s is %q, not %q", field, hash[field], want)
		}
	}
	for _, field := range []string{"addresses", "updated_at", "seq", "workers", "interval_ms"} {
		if hash[field] == "" {
			return fmt.Errorf("there is no %s", field)
		}
	}
	return nil
}

// appended are the events of the stream: "seq type reason", the oldest first.
func appended(t testing.TB, s *server) []string {
	t.Helper()
	var out []string
	for _, entry := range s.do("XRANGE", "forkd:{shop}:events", "-", "+").([]any) {
		e := pairs(t, entry.([]any)[1])
		out = append(out, fmt.Sprintf("%s %s %s", e["seq"], e["type"], e["reason"]))
	}
	return out
}
