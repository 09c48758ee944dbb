package servetest

import (
	"sync"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
)

// The counters are exact, of hijacked connections too.
func counters(t *testing.T, s *testServer) {
	s.WaitFor(ipc.Counters{Attached: true})
	a, b, silent, hijacked := s.dial(), s.dial(), s.dial(), s.dial()
	for range 3 {
		a.get(t)
	}
	b.get(t)
	hijacked.ask(t, "/hijack")
	s.entered()
	hijacked.echo(t)
	s.WaitFor(ipc.Counters{Attached: true, Open: 4, Accepts: 4, Requests: 5})
	silent.Close()
	s.WaitFor(ipc.Counters{Attached: true, Open: 3, Accepts: 4, Requests: 5})
	hijacked.Close()
	s.WaitFor(ipc.Counters{Attached: true, Open: 2, Accepts: 4, Requests: 5})
	a.Close()
	b.Close()
	s.WaitFor(ipc.Counters{Attached: true, Open: 0, Accepts: 4, Requests: 5})
}

// A client whose next request comes during the drain gets its answer, and is
// told that it is the last.
func keepAlive(t *testing.T, s *testServer) {
	c := s.dial()
	if c.get(t) {
		t.Fatal("told to close before the drain")
	}
	s.drain(ipc.ReasonRoll, Timeout, 0)
	if !c.get(t) {
		t.Error("not told to close")
	}
	c.closed(t)
	c.Close()
	s.wantServed()
	s.WaitFor(ipc.Counters{Attached: true, Accepts: 1, Requests: 2})
	if again, err := connect(s.addr); err == nil {
		again.Close()
		t.Error("a drained worker still accepts")
	}
}

// Many clients that never retry see no failure: not one request of theirs is
// lost when the drain falls among them.
func neverRetries(t *testing.T, s *testServer) {
	const clients = 16
	failures := make(chan error, clients)
	var warm, all sync.WaitGroup
	warm.Add(clients)
	for range clients {
		c := s.dial()
		all.Go(func() {
			for n := 1; ; n++ {
				if err := c.send("/"); err != nil {
					failures <- err
					return
				}
				last, err := c.receive()
				if err != nil {
					failures <- err
				}
				if n == 20 {
					warm.Done()
				}
				if last || err != nil {
					c.Close()
					return
				}
			}
		})
	}
	warm.Wait()
	s.drain(ipc.ReasonRoll, Timeout, 0)
	all.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
	s.wantServed()
}

// A request that the drain finds under way is answered first.
func underWay(t *testing.T, s *testServer) {
	c := s.dialAsking("/slow")
	s.drain(ipc.ReasonStop, Timeout, 0)
	select {
	case err := <-s.served:
		t.Fatalf("Serve returned %v within a request", err)
	case s.app.Release <- struct{}{}:
	}
	if _, err := c.receive(); err != nil {
		t.Error(err)
	}
	c.closed(t)
	s.wantServed()
}

// A response reaches its client whole though pipelined requests that nobody will
// read came after it: no reset overtakes it.
func lingeringClose(t *testing.T, s *testServer) {
	c := s.dialUsed()
	s.drain(ipc.ReasonRoll, Timeout, 0)
	c.ask(t, "/big")
	// The server writes into full buffers now. What comes meanwhile stays
	// unread in its own until it closes.
	if _, err := c.in.Peek(1); err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		c.ask(t, "/")
	}
	last, err := c.receive()
	if err != nil || !last {
		t.Errorf("told to close: %v, %v", last, err)
	}
	if err := c.send("/"); err != nil {
		t.Errorf("the server has not read on: %v", err)
	}
	c.closed(t)
	c.Close()
	s.wantServed()
}

// In a roll, connections stay open while their clients are silent, those that
// never spoke too, and are closed in the last tenth. (TestPlan
// checks the spread: a machine that stalls for 100 ms would hide it here.)
func idleInRoll(t *testing.T, s *testServer) {
	var idle []*client
	for range 6 {
		idle = append(idle, s.dialUsed())
	}
	silent := s.dial()
	s.WaitFor(ipc.Counters{Attached: true, Open: 7, Accepts: 7, Requests: 6})
	const whole = 2 * time.Second
	began := s.drain(ipc.ReasonRoll, whole, 0)
	for _, c := range append(idle, silent) {
		if early := c.closed(t).Sub(began); early < whole*9/10 {
			t.Errorf("closed an idle connection after %v of %v", early, whole)
		}
		c.Close()
	}
	s.wantServed()
	if late := time.Since(began); late > Timeout {
		t.Errorf("the drain took %v of %v", late, whole)
	}
}

// At a stop, idle connections are closed after drain.idle, not before, and the
// drain ends then.
func idleAtStop(t *testing.T, s *testServer) {
	used, silent := s.dial(), s.dial()
	used.get(t)
	s.WaitFor(ipc.Counters{Attached: true, Open: 2, Accepts: 2, Requests: 1})
	const idle = 300 * time.Millisecond
	began := s.drain(ipc.ReasonStop, Timeout, idle)
	for _, c := range []*client{used, silent} {
		if at := c.closed(t).Sub(began); at < idle {
			t.Errorf("closed after %v, want %v", at, idle)
		}
		c.Close()
	}
	s.wantServed()
	if took := time.Since(began); took > Timeout/2 {
		t.Errorf("the stop took %v", took)
	}
}

// A client that has only just connected is not idle, however short drain.idle is.
func justConnected(t *testing.T, s *testServer) {
	c := s.dial()
	s.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 1})
	s.drain(ipc.ReasonStop, Timeout, time.Millisecond)
	s.speaksAfter(c, 100*time.Millisecond)
}

// A client that connected before the stop and sends its request soon after is
// answered, also where accept is deferred.
func speaksLate(t *testing.T, s *testServer) {
	c := s.dial()
	s.drain(ipc.ReasonStop, 2*Timeout, Timeout)
	s.speaksAfter(c, 300*time.Millisecond)
}

// speaksAfter lets a client of a draining worker wait, ask, and be told that this was
// the last response. Then the drain is over.
func (s *testServer) speaksAfter(c *client, d time.Duration) {
	s.t.Helper()
	silence := time.NewTimer(d)
	defer silence.Stop()
	<-silence.C
	c.ask(s.t, "/")
	if last, err := c.receive(); err != nil || !last {
		s.t.Errorf("told to close: %v, %v", last, err)
	}
	c.Close()
	s.wantServed()
}

// A worker that drains for a roll when the whole app stops follows the stop.
func stopDuringRoll(t *testing.T, s *testServer) {
	c := s.dialUsed()
	s.drain(ipc.ReasonRoll, time.Hour, 0)
	s.Drain(ipc.ReasonStop, Timeout, 50*time.Millisecond)
	c.closed(t)
	c.Close()
	s.wantServed()
	if r := s.worker.Reason(); r != ipc.ReasonStop {
		t.Errorf("the reason is %q", r)
	}
}

// The drain waits for hijacked connections.
func hijackedTold(t *testing.T, s *testServer) {
	told, other := s.dialAsking("/hijack/told"), s.dialAsking("/hijack")
	s.drain(ipc.ReasonStop, Timeout, 0)
	told.closed(t)
	other.echo(t)
	s.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Requests: 2})
	select {
	case err := <-s.served:
		t.Fatalf("Serve returned %v with a hijacked connection open", err)
	default:
	}
	other.Close()
	s.wantServed()
}

// A hijacked connection that ignores the drain is cut at the deadline.
func hijackedCut(t *testing.T, s *testServer) {
	s.dialAsking("/hijack")
	const whole = 300 * time.Millisecond
	began := s.drain(ipc.ReasonRoll, whole, 0)
	s.wantCut(1)
	if took := time.Since(began); took < whole {
		t.Errorf("cut after %v of %v", took, whole)
	}
	s.WaitFor(ipc.Counters{Attached: true, Accepts: 1, Requests: 1})
}

// A client that stays silent within its request holds the drain up until the
// deadline and no longer, though the server has no read timeout.
func stuckRequest(t *testing.T, s *testServer) {
	first, second := s.dial(), s.dial()
	second.get(t)
	for _, c := range []*client{first, second} {
		c.write(t, "GET / HTTP/1.1\r\nHo")
	}
	s.WaitFor(ipc.Counters{Attached: true, Open: 2, Accepts: 2, Requests: 1})
	const whole = 500 * time.Millisecond
	began := s.drain(ipc.ReasonStop, whole, 100*time.Millisecond)
	s.wantCut(2)
	if took := time.Since(began); took < whole || took > Timeout {
		t.Errorf("cut after %v of %v", took, whole)
	}
	s.WaitFor(ipc.Counters{Attached: true, Accepts: 2, Requests: 1})
}

// A worker whose master has gone drains as for a stop.
func masterGone(t *testing.T, s *testServer) {
	c := s.dialUsed()
	s.Close()
	receive(t, s.worker.Draining(), "the worker does not drain")
	if r, left := s.worker.Reason(), time.Until(s.worker.Deadline()); r != ipc.ReasonStop || left < 20*time.Second || left > 30*time.Second {
		t.Errorf("drains for %q within %v", r, left)
	}
	if !c.get(t) {
		t.Error("not told to close")
	}
	c.Close()
	s.wantServed()
}
