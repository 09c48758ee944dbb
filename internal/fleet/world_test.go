package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/forkd/forkd/internal/control"
)

// app is a Source that a test changes as it goes.
type app struct {
	mu       sync.Mutex
	glance   snapshot
	app      control.App
	events   []control.Event
	more     chan struct{}
	commands []control.Command
	refused  []control.Command
	statuses int           // how often it was asked
	longest  time.Duration // since the last glance
	asked    time.Time
	ended    bool

	unreadable error // what Events returns
}

func newApp(slots int) *app {
	a := &app{more: make(chan struct{}), glance: snapshot{Connections: 100, Known: true, State: control.StateReady, Ready: slots, Generation: 1}}
	a.app = control.App{App: "shop", Version: "v1", State: control.StateReady, Generation: 1, Listeners: []control.Listener{{Address: "tcp://:8080"}}}
	for i := range slots {
		a.app.Slots = append(a.app.Slots, control.Slot{Slot: i, State: control.StateReady, Restarts: i % 3, Workers: []control.Worker{{
			PID: 1234567 + i, Generation: 12, State: control.StateReady, Connections: new(int64(1500 + i)), Accepted: new(int64(1000000 + i)), Requests: new(int64(1234567 + i)),
			Refused: new(int64(0)), Queue: new(int64(0)), CPUPercent: new(12.3), RSSBytes: new(int64(104857600 + i)),
		}}})
	}
	return a
}

func (a *app) Summary(context.Context) (control.Summary, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.asked.IsZero() {
		a.longest = max(a.longest, time.Since(a.asked))
	}
	a.asked = time.Now()
	if a.ended {
		return control.Summary{}, errors.New("the app has stopped")
	}
	s := control.Summary{State: a.glance.State, Generation: a.glance.Generation, Ready: a.glance.Ready}
	if n := len(a.events); n > 0 {
		s.EventSeq = a.events[n-1].Seq
	}
	if a.glance.Known {
		s.Connections = new(a.glance.Connections)
	}
	return s, nil
}

func (a *app) Status(context.Context) (control.App, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.statuses++
	if a.ended {
		return control.App{}, errors.New("the app has stopped")
	}
	s := a.app
	s.State, s.Generation = a.glance.State, a.glance.Generation
	s.Totals = control.Sum(s.Slots)
	s.Totals.Connections, s.Totals.Ready = nil, a.glance.Ready
	if a.glance.Known {
		s.Totals.Connections = new(a.glance.Connections)
	}
	return s, nil
}

func (a *app) Events(_ context.Context, after uint64) (control.EventPage, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	page := control.EventPage{Boot: "boot", More: a.more}
	if a.unreadable != nil {
		return page, a.unreadable
	}
	for _, e := range a.events {
		if e.Seq > after {
			page.Events = append(page.Events, e)
		}
	}
	return page, nil
}

func (a *app) Execute(_ context.Context, c control.Command) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case slices.ContainsFunc(a.commands, func(b control.Command) bool { return b.ID == c.ID }):
	case c.Refused == "":
		a.commands = append(a.commands, c)
	default:
		a.refused = append(a.refused, c)
	}
	return nil
}

func (a *app) change(f func(*snapshot)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.glance)
}

// happen adds n events.
func (a *app) happen(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range n {
		seq := uint64(len(a.events) + 1)
		a.events = append(a.events, control.Event{Seq: seq, Time: time.Now(), Host: "x", Type: control.EventReady, Slot: new(int(seq)), Reason: "why"})
	}
	close(a.more)
	a.more = make(chan struct{})
}

func (a *app) obeyed() []control.Command {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]control.Command(nil), a.commands...)
}

func (a *app) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
}

// world is a Redis in memory, the way there, and what is logged.
type world struct {
	*miniredis.Miniredis

	t   *testing.T
	app *app
	log *safeBuffer

	mu    sync.Mutex
	way   func(net.Conn) (net.Conn, error) // nil: straight
	dials []time.Time
	conns []net.Conn

	began map[string]time.Time // of the masters, by boot
}

// newWorld, in a bubble, has a clock of its own.
func newWorld(t *testing.T) *world {
	t.Helper()
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true)
	t.Cleanup(m.Close)
	return &world{Miniredis: m, t: t, app: newApp(2), log: &safeBuffer{}}
}

func (w *world) dial(context.Context, string, string) (net.Conn, error) {
	w.mu.Lock()
	way := w.way
	w.dials = append(w.dials, time.Now())
	w.mu.Unlock()
	conn, err := w.Dial()
	if err == nil && way != nil {
		conn, err = way(conn)
	}
	if err == nil {
		w.mu.Lock()
		w.conns = append(w.conns, conn)
		w.mu.Unlock()
	}
	return conn, err
}

// cut ends all connections.
func (w *world) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

func (w *world) setWay(way func(net.Conn) (net.Conn, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.way = way
}

func (w *world) dialed() []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]time.Time(nil), w.dials...)
}

func (w *world) settings() Settings {
	return Settings{URL: "redis://:hunter2@there", HostID: "web-1", Interval: 2 * time.Second, Control: true, ConnectionLimit: 1000}
}

// start starts a reporter that is closed at the test's end.
func (w *world) start(s Settings, boot string, source Source) *Reporter {
	w.t.Helper()
	if w.began == nil {
		w.began = map[string]time.Time{}
	}
	if w.began[boot].IsZero() {
		w.began[boot] = time.Now()
	}
	r, err := start(s, App{Name: "shop", Boot: boot, StartedAt: w.began[boot]}, source, slog.New(slog.NewTextHandler(w.log, nil)), func(control.Redis) {}, w.dial)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { r.Close(context.Background(), false) })
	return r
}

func (w *world) field(name string) string { return w.HGet("forkd:{shop}:host:web-1", name) }

// stream returns seq and boot of the events there, "boot/seq".
func (w *world) stream() []string {
	entries, err := w.Stream("forkd:{shop}:events")
	if err != nil {
		return nil
	}
	var list []string
	for _, e := range entries {
		f := map[string]string{}
		for i := 0; i+1 < len(e.Values); i += 2 {
			f[e.Values[i]] = e.Values[i+1]
		}
		list = append(list, f["boot"]+"/"+f["seq"])
	}
	return list
}

func numbered(boot string, to int) []string {
	var list []string
	for i := 1; i <= to; i++ {
		list = append(list, fmt.Sprintf("%s/%d", boot, i))
	}
	return list
}

// after lets the bubble's time go on and everything come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// The ways to a Redis that is not well.

func refused(conn net.Conn) (net.Conn, error) {
	_ = conn.Close()
	return nil, errors.New("connection refused")
}

// hung takes what it is sent and says nothing.
func hung(conn net.Conn) (net.Conn, error) {
	_ = conn.Close()
	near, far := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, far) }()
	return near, nil
}

// says answers everything with the same bytes.
func says(text string) func(net.Conn) (net.Conn, error) {
	return func(conn net.Conn) (net.Conn, error) {
		_ = conn.Close()
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			b := make([]byte, 64<<10)
			for {
				if _, err := far.Read(b); err != nil {
					return
				}
				if _, err := io.WriteString(far, text); err != nil {
					return
				}
			}
		}()
		return near, nil
	}
}
