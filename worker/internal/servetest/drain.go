package drill

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker/internal/fake"
)

// The counters are exact, of hijacked connections too.
func counters(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	s.Await(ipc.Counters{Attached: true})
	a, b, silent, hijacked := s.dial(), s.dial(), s.dial(), s.dial()
	for range 3 {
		a.get(t)
	}
	b.get(t)
	if err := hijacked.send("/hijack"); err != nil {
		t.Fatal(err)
	}
	s.entered()
	hijacked.echo(t)
	s.Await(ipc.Counters{Attached: true, Open: 4, Accepts: 4, Requests: 5})
	silent.Close()
	s.Await(ipc.Counters{Attached: true, Open: 3, Accepts: 4, Requests: 5})
	hijacked.Close()
	s.Await(ipc.Counters{Attached: true, Open: 2, Accepts: 4, Requests: 5})
	a.Close()
	b.Close()
	s.Await(ipc.Counters{Attached: true, Open: 0, Accepts: 4, Requests: 5})
}

// A client whose next request comes during the drain gets its answer, and is
// told that it is the last.
func keepAlive(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	c := s.dial()
	if c.get(t) {
		t.Fatal("told to close before the drain")
	}
	s.drain(ipc.ReasonRoll, fake.Patience, 0)
	if !c.get(t) {
		t.Error("not told to close")
	}
	c.closed(t)
	c.Close()
	if err := s.done(); err != nil {
		t.Error(err)
	}
	s.Await(ipc.Counters{Attached: true, Accepts: 1, Requests: 2})
	if again, err := connect(s.addr); err == nil {
		again.Close()
		t.Error("a drained worker still accepts")
	}
}

// Many clients that never retry see no failure: not one request of theirs is
// lost when the drain falls among them.
func neverRetries(t *testing.T, serve Serve) {
	s := setUp(t, serve)
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
	s.drain(ipc.ReasonRoll, fake.Patience, 0)
	all.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
	if err := s.done(); err != nil {
		t.Error(err)
	}
}

// A request that the drain finds under way is answered first.
func underWay(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	c := s.dial()
	if err := c.send("/slow"); err != nil {
		t.Fatal(err)
	}
	s.entered()
	s.drain(ipc.ReasonStop, fake.Patience, 0)
	select {
	case err := <-s.served:
		t.Fatalf("Serve returned %v within a request", err)
	case s.app.Release <- struct{}{}:
	}
	if _, err := c.receive(); err != nil {
		t.Error(err)
	}
	c.closed(t)
	if err := s.done(); err != nil {
		t.Error(err)
	}
}

// A response reaches its client whole though pipelined requests that nobody will
// read came after it: no reset overtakes it.
func lingeringClose(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	c := s.dial()
	c.get(t)
	s.drain(ipc.ReasonRoll, fake.Patience, 0)
	if err := c.send("/big"); err != nil {
		t.Fatal(err)
	}
	// The server writes into full buffers now. What comes meanwhile stays
	// unread in its own until it closes.
	if _, err := c.in.Peek(1); err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		if err := c.send("/"); err != nil {
			t.Fatal(err)
		}
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
	if err := s.done(); err != nil {
		t.Error(err)
	}
}

// In a roll, connections stay open while their clients are silent, those that
// never spoke too, and are closed in the last tenth. (That they are closed one
// after the other there is the plan's to show: a machine that stalls for a tenth
// of a second would hide it here.)
func idleInRoll(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	var idle []*client
	for range 6 {
		c := s.dial()
		c.get(t)
		idle = append(idle, c)
	}
	silent := s.dial()
	s.Await(ipc.Counters{Attached: true, Open: 7, Accepts: 7, Requests: 6})
	const whole = 2 * time.Second
	began := s.drain(ipc.ReasonRoll, whole, 0)
	for _, c := range append(idle, silent) {
		if early := c.closed(t).Sub(began); early < whole*9/10 {
			t.Errorf("closed an idle connection after %v of %v", early, whole)
		}
		c.Close()
	}
	if err := s.done(); err != nil {
		t.Error(err)
	}
	if late := time.Since(began); late > fake.Patience {
		t.Errorf("the drain took %v of %v", late, whole)
	}
}

// At a stop, idle connections are closed after drain.idle, not before, and the
// drain ends then.
func idleAtStop(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	used, silent := s.dial(), s.dial()
	used.get(t)
	s.Await(ipc.Counters{Attached: true, Open: 2, Accepts: 2, Requests: 1})
	const idle = 300 * time.Millisecond
	began := s.drain(ipc.ReasonStop, fake.Patience, idle)
	for _, c := range []*client{used, silent} {
		if at := c.closed(t).Sub(began); at < idle {
			t.Errorf("closed after %v, want %v", at, idle)
		}
		c.Close()
	}
	if err := s.done(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > fake.Patience/2 {
		t.Errorf("the stop took %v", took)
	}
}

// A client that has only just connected is no idle one, however short drain.idle
// is: it is answered when it speaks.
func justConnected(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	c := s.dial()
	s.Await(ipc.Counters{Attached: true, Open: 1, Accepts: 1})
	s.drain(ipc.ReasonStop, fake.Patience, time.Millisecond)
	s.speaksAfter(c, 100*time.Millisecond)
}

// A client that had connected when the stop came and speaks soon after is
// answered, also where the kernel keeps it back until it speaks.
func speaksLate(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	c := s.dial()
	s.drain(ipc.ReasonStop, 2*fake.Patience, fake.Patience)
	s.speaksAfter(c, 300*time.Millisecond)
}

// speaksAfter lets a client of a worker that drains be silent for a while, ask, and
// be told that this was its last answer. Then the drain is over.
func (s *stage) speaksAfter(c *client, d time.Duration) {
	s.t.Helper()
	silence := time.NewTimer(d)
	defer silence.Stop()
	<-silence.C
	if err := c.send("/"); err != nil {
		s.t.Fatal(err)
	}
	if last, err := c.receive(); err != nil || !last {
		s.t.Errorf("told to close: %v, %v", last, err)
	}
	c.Close()
	if err := s.done(); err != nil {
		s.t.Error(err)
	}
}

// A worker that drains for a roll when the whole app stops follows the stop.
func stopDuringRoll(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	c := s.dial()
	c.get(t)
	s.drain(ipc.ReasonRoll, time.Hour, 0)
	s.Drain(ipc.ReasonStop, fake.Patience, 50*time.Millisecond)
	c.closed(t)
	c.Close()
	if err := s.done(); err != nil {
		t.Error(err)
	}
	if r := s.worker.Reason(); r != ipc.ReasonStop {
		t.Errorf("the reason is %q", r)
	}
}

// A hijacked connection is waited for, told, and ends in its own time.
func hijackedTold(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	told, deaf := s.dial(), s.dial()
	if err := told.send("/hijack/told"); err != nil {
		t.Fatal(err)
	}
	s.entered()
	if err := deaf.send("/hijack"); err != nil {
		t.Fatal(err)
	}
	s.entered()
	s.drain(ipc.ReasonStop, fake.Patience, 0)
	told.closed(t)
	deaf.echo(t)
	s.Await(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Requests: 2})
	select {
	case err := <-s.served:
		t.Fatalf("Serve returned %v with a hijacked connection open", err)
	default:
	}
	deaf.Close()
	if err := s.done(); err != nil {
		t.Error(err)
	}
}

// A hijacked connection that does not listen is cut at the deadline.
func hijackedCut(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	deaf := s.dial()
	if err := deaf.send("/hijack"); err != nil {
		t.Fatal(err)
	}
	s.entered()
	const whole = 300 * time.Millisecond
	began := s.drain(ipc.ReasonRoll, whole, 0)
	if err := s.done(); err == nil || !strings.Contains(err.Error(), "cut 1 connections") {
		t.Errorf("Serve returned %v", err)
	}
	if took := time.Since(began); took < whole {
		t.Errorf("cut after %v of %v", took, whole)
	}
	s.Await(ipc.Counters{Attached: true, Accepts: 1, Requests: 1})
}

// A client that stays silent within its request holds the drain up until the
// deadline and no longer, though the server has no read timeout.
func stuckRequest(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	first, second := s.dial(), s.dial()
	second.get(t)
	for _, c := range []*client{first, second} {
		if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHo")); err != nil {
			t.Fatal(err)
		}
	}
	s.Await(ipc.Counters{Attached: true, Open: 2, Accepts: 2, Requests: 1})
	const whole = 500 * time.Millisecond
	began := s.drain(ipc.ReasonStop, whole, 100*time.Millisecond)
	if err := s.done(); err == nil || !strings.Contains(err.Error(), "cut 2 connections") {
		t.Errorf("Serve returned %v", err)
	}
	if took := time.Since(began); took < whole || took > fake.Patience {
		t.Errorf("cut after %v of %v", took, whole)
	}
	s.Await(ipc.Counters{Attached: true, Accepts: 2, Requests: 1})
}

// A worker whose master has gone drains as for a stop.
func masterGone(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	c := s.dial()
	c.get(t)
	s.Die()
	select {
	case <-s.worker.Draining():
	case <-time.After(fake.Patience):
		t.Fatal("the worker does not drain")
	}
	if r, left := s.worker.Reason(), time.Until(s.worker.Deadline()); r != ipc.ReasonStop || left < 20*time.Second || left > 30*time.Second {
		t.Errorf("drains for %q within %v", r, left)
	}
	if !c.get(t) {
		t.Error("not told to close")
	}
	c.Close()
	if err := s.done(); err != nil {
		t.Error(err)
	}
}
