// Package drill is the tests of what a draining worker promises its clients,
// written once for every server that a serve package serves.
package drill

import (
	"net"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/internal/fake"
)

// Big is how long the body of /big is: more than the buffers between server and
// client hold.
const Big = 16 << 20

// App is what the server under test serves: "ok" at /, Big bytes at /big, at
// /slow an "ok" that waits for Release, and at /hijack a connection that echoes
// until its client closes, or, at /hijack/told, until the worker drains.
// Handlers of /slow and /hijack say so on Entered.
type App struct {
	Entered chan struct{}
	Release chan struct{}
}

// Serve serves app on ln as a serve package does, without a read timeout.
type Serve func(w *worker.Worker, ln net.Listener, app App) error

// stage is one worker, its master and its server.
type stage struct {
	*fake.Master
	t      *testing.T
	worker *worker.Worker
	addr   string
	app    App
	served chan error
}

func setUp(t *testing.T, serve Serve) *stage {
	t.Helper()
	return setUpWith(t, serve, 0)
}

// setUpWith sets up a worker that may have so many connections.
func setUpWith(t *testing.T, serve Serve, connections int) *stage {
	t.Helper()
	m := fake.New(t)
	m.MaxConnections = connections
	s := &stage{
		Master: m, t: t, worker: m.Worker(),
		app:    App{Entered: make(chan struct{}), Release: make(chan struct{})},
		served: make(chan error, 1),
	}
	ln, err := s.worker.Listen("http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	s.Quiet()
	go func() { s.served <- serve(s.worker, ln, s.app) }()
	s.Expect(ipc.Ready{})
	return s
}

// drain asks for a drain and waits until the worker knows of it. It returns when
// the drain began, as far as this side can tell.
func (s *stage) drain(reason string, d, idle time.Duration) time.Time {
	s.t.Helper()
	began := time.Now()
	s.Drain(reason, d, idle)
	select {
	case <-s.worker.Draining():
	case <-time.After(fake.Patience):
		s.t.Fatal("the worker does not drain")
	}
	return began
}

// done is what Serve returned.
func (s *stage) done() error {
	s.t.Helper()
	select {
	case err := <-s.served:
		return err
	case <-time.After(fake.Patience):
		s.t.Fatal("Serve does not return")
		return nil
	}
}

func (s *stage) entered() {
	s.t.Helper()
	select {
	case <-s.app.Entered:
	case <-time.After(fake.Patience):
		s.t.Fatal("no handler was called")
	}
}

// Run runs all drills.
func Run(t *testing.T, serve Serve) {
	for name, drill := range map[string]func(*testing.T, Serve){
		"counters":          counters,
		"keep-alive":        keepAlive,
		"never retries":     neverRetries,
		"under way":         underWay,
		"lingering close":   lingeringClose,
		"idle in a roll":    idleInRoll,
		"idle at a stop":    idleAtStop,
		"speaks late":       speaksLate,
		"just connected":    justConnected,
		"stop during roll":  stopDuringRoll,
		"hijacked and told": hijackedTold,
		"hijacked and cut":  hijackedCut,
		"stuck request":     stuckRequest,
		"master gone":       masterGone,

		"limit":               limit,
		"limit changes":       limitChanges,
		"limit of WebSockets": limitOfWebSockets,
		"limit under load":    limitUnderLoad,
		"limit in a drain":    limitInADrain,
		"limit at the end":    limitAtTheEnd,
		"limit and silence":   limitAndSilence,
		"limit and a flood":   limitAndAFlood,

		"shed, idle":                  shedIdle,
		"shed, busy":                  shedBusy,
		"shed, under way":             shedUnderWay,
		"shed by the program":         shedByTheProgram,
		"shed, hijacked":              shedHijacked,
		"shed, hijacked and not told": shedUntold,
		"shed and a drain":            shedAndADrain,
		"shed under load":             shedUnderLoad,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			drill(t, serve)
		})
	}
}
