// Package servetest is for tests of workers, as net/http/httptest is for tests of
// servers. Master is the master's end of a worker's channel and counters page; Run
// is one suite of what a worker promises its clients, for every serve package.
package servetest

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
)

// Timeout bounds every wait. Only a test that hangs reaches it.
const Timeout = 60 * time.Second

// BigSize is the length of the body of /big: more than the buffers between server
// and client hold.
const BigSize = 16 << 20

// App is what the server under test serves: "ok" at /, BigSize bytes at /big, at
// /slow an "ok" that waits for Release, and at /hijack a connection that echoes
// until its client closes, or, at /hijack/told, until the worker drains.
// Handlers of /slow and /hijack send to Entered.
type App struct {
	Entered chan struct{}
	Release chan struct{}
}

// Serve serves app on ln by a serve package, without a read timeout.
type Serve func(w *worker.Worker, ln net.Listener, app App) error

// testServer is a worker with its master and its server.
type testServer struct {
	*Master
	t      *testing.T
	worker *worker.Worker
	addr   string
	app    App
	served chan error
}

// start starts a worker with a limit of connections; 0: none.
func start(t *testing.T, serve Serve, maxConnections int) *testServer {
	t.Helper()
	m := NewMaster(t)
	m.MaxConnections = maxConnections
	s := &testServer{
		Master: m, t: t, worker: m.Worker(),
		app:    App{Entered: make(chan struct{}), Release: make(chan struct{})},
		served: make(chan error, 1),
	}
	ln, err := s.worker.Listen("http", "127.0.0.1:0")
	check(t, err)
	s.addr = ln.Addr().String()
	s.ExpectNothing()
	go func() { s.served <- serve(s.worker, ln, s.app) }()
	s.Expect(ipc.Ready{})
	return s
}

// drain asks for a drain, waits until it has begun, and returns when it was asked for.
func (s *testServer) drain(reason string, d, idle time.Duration) time.Time {
	s.t.Helper()
	began := time.Now()
	s.Drain(reason, d, idle)
	receive(s.t, s.worker.Draining(), "the worker does not drain")
	return began
}

// wantServed waits for Serve to return without an error.
func (s *testServer) wantServed() {
	s.t.Helper()
	if err := receive(s.t, s.served, "Serve does not return"); err != nil {
		s.t.Error(err)
	}
}

// wantCut waits for Serve to return an error that names how many connections it cut.
func (s *testServer) wantCut(connections int) {
	s.t.Helper()
	err := receive(s.t, s.served, "Serve does not return")
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("cut %d connections", connections)) {
		s.t.Errorf("Serve returned %v", err)
	}
}

func (s *testServer) entered() {
	s.t.Helper()
	receive(s.t, s.app.Entered, "no handler was called")
}

// receive receives from a channel, and fails the test if nothing comes.
func receive[T any](t testing.TB, from <-chan T, otherwise string) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(Timeout):
		t.Fatal(otherwise)
	}
	return v
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Run runs the suite.
func Run(t *testing.T, serve Serve) {
	for _, test := range []struct {
		name  string
		run   func(*testing.T, *testServer)
		limit int // of connections
	}{
		{"counters", counters, 0},
		{"keep-alive", keepAlive, 0},
		{"never retries", neverRetries, 0},
		{"under way", underWay, 0},
		{"lingering close", lingeringClose, 0},
		{"idle in a roll", idleInRoll, 0},
		{"idle at a stop", idleAtStop, 0},
		{"speaks late", speaksLate, 0},
		{"just connected", justConnected, 0},
		{"stop during roll", stopDuringRoll, 0},
		{"hijacked and told", hijackedTold, 0},
		{"hijacked and cut", hijackedCut, 0},
		{"stuck request", stuckRequest, 0},
		{"master gone", masterGone, 0},

		{"limit", limit, 2},
		{"limit changes", limitChanges, 1},
		{"limit of WebSockets", limitOfWebSockets, 1},
		{"limit under load", limitUnderLoad, loadLimit},
		{"limit in a drain", limitInADrain, 1},
		{"limit at the end", limitAtTheEnd, 1},
		{"limit and silence", limitAndSilence, 1},
		{"limit and a flood", limitAndAFlood, 1},

		{"shed, idle", shedIdle, 0},
		{"shed, busy", shedBusy, 0},
		{"shed, under way", shedUnderWay, 0},
		{"shed by the program", shedByTheProgram, 0},
		{"shed, hijacked", shedHijacked, 0},
		{"shed, hijacked and not told", shedUntold, 0},
		{"shed and a drain", shedAndADrain, 0},
		{"shed under load", shedUnderLoad, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, start(t, serve, test.limit))
		})
	}
}
