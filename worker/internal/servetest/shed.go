package servetest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
)

// programTime is how long a worker waits for the program to close connections
// when it is told to shed.
const programTime = time.Second

// dialMany opens connections that have had an answer each, the oldest first.
func (s *testServer) dialMany(n int) []*client {
	s.t.Helper()
	all := make([]*client, n)
	for i := range all {
		all[i] = s.dialUsed()
	}
	return all
}

// dialHijacked is a connection that the handler has taken over.
func (s *testServer) dialHijacked() *client {
	s.t.Helper()
	c := s.dialAsking("/hijack")
	c.echo(s.t)
	return c
}

// stays checks that connections are open and not told to close.
func stays(t *testing.T, all ...*client) {
	t.Helper()
	for i, c := range all {
		if c.get(t) {
			t.Errorf("connection %d of those that stay is told to close", i)
		}
	}
}

// Of connections whose clients are silent, those that are open the longest are
// closed, and no other.
func shedIdle(t *testing.T, s *testServer) {
	all := s.dialMany(7)
	began := time.Now()
	s.Send(ipc.Shed{Count: 4, Over: 2 * time.Second})
	for _, c := range all[:4] {
		if early := c.closed(t).Sub(began); early < ipc.DefaultIdle {
			t.Errorf("closed after %v", early)
		}
		c.Close()
	}
	s.WaitFor(ipc.Counters{Attached: true, Open: 3, Accepts: 7, Requests: 7})
	stays(t, all[4:]...)
}

// One whose client speaks is told to close with an answer, and closed after it.
func shedBusy(t *testing.T, s *testServer) {
	all := s.dialMany(3)
	s.Send(ipc.Shed{Count: 1})
	for end := time.Now().Add(Timeout); !all[0].get(t); {
		stays(t, all[1:]...)
		if time.Now().After(end) {
			t.Fatal("not told to close")
		}
	}
	all[0].closed(t)
	stays(t, all[1:]...)
	stays(t, s.dial())
}

// A request that is under way is answered, however long it takes; then its
// connection goes. Meanwhile no other goes in its place.
func shedUnderWay(t *testing.T, s *testServer) {
	long := s.dialAsking("/slow")
	idle, other := s.dialUsed(), s.dialUsed()
	s.Send(ipc.Shed{Count: 2, Over: 500 * time.Millisecond})
	idle.closed(t)
	stays(t, other)
	s.app.Release <- struct{}{}
	last, err := long.receive()
	check(t, err)
	if !last && !long.get(t) { // a response that has begun may not say so, the next one does
		t.Error("not told to close")
	}
	long.closed(t)
	stays(t, other)
}

// The program is told first; what closes then counts, though it is not the
// oldest.
func shedByTheProgram(t *testing.T, s *testServer) {
	told := make(chan int, 10)
	s.worker.OnShed(func(n int) { told <- n })
	old := s.dialMany(3)
	young := []*client{s.dialHijacked(), s.dialHijacked()}
	s.Send(ipc.Shed{Count: 2})
	if n := receive(t, told, "not told"); n != 2 {
		t.Errorf("told of %d", n)
	}
	for _, c := range young {
		c.Close() // as a client does that has been sent a close frame
	}
	s.WaitFor(ipc.Counters{Attached: true, Open: 3, Accepts: 5, Requests: 5})
	// Long enough for anything else to be closed.
	silence := time.NewTimer(programTime + 2*ipc.DefaultIdle)
	defer silence.Stop()
	<-silence.C
	stays(t, old...)
}

// A hijacked connection of a program that is told and lets it be is cut when it
// has had the time of the whole shed and a second; the others stay.
func shedHijacked(t *testing.T, s *testServer) {
	told := make(chan struct{}, 10)
	s.worker.OnShed(func(int) { told <- struct{}{} })
	first, second := s.dialHijacked(), s.dialHijacked()
	const over = time.Second
	began := time.Now()
	s.Send(ipc.Shed{Count: 1, Over: over})
	receive(t, told, "not told")
	first.echo(t)
	if early := first.closed(t).Sub(began); early < over+programTime {
		t.Errorf("cut after %v", early)
	}
	second.echo(t)
	s.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Requests: 2})
}

// Without an OnShed, hijacked connections are cut.
func shedUntold(t *testing.T, s *testServer) {
	first, idle, second := s.dialHijacked(), s.dialMany(1)[0], s.dialHijacked()
	s.Send(ipc.Shed{Count: 2, Over: time.Second})
	first.closed(t)
	idle.closed(t)
	idle.Close()
	second.echo(t)
	s.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 3, Requests: 3})
}

// A drain takes over from a shed.
func shedAndADrain(t *testing.T, s *testServer) {
	told := make(chan int, 10)
	s.worker.OnShed(func(n int) { told <- n })
	all := s.dialMany(4)
	s.Send(ipc.Shed{Count: 4, Over: 4 * time.Second})
	receive(t, told, "not told")
	s.drain(ipc.ReasonRoll, Timeout, 0)
	for _, c := range all {
		if !c.get(t) {
			t.Error("not told to close")
		}
		c.Close()
	}
	s.wantServed()
}

// Clients that keep their connections and never retry see no failure while one
// shed follows the other, and as many connections are closed as was asked for.
func shedUnderLoad(t *testing.T, s *testServer) {
	const clients, sheds, each = 12, 3, 5
	var toldToClose atomic.Int64
	var warm, all sync.WaitGroup
	warm.Add(clients)
	stop := make(chan struct{})
	for i := range clients {
		all.Go(func() {
			// Some ask without a pause, others now and then.
			pause := time.NewTicker(time.Duration(1+i*i) * time.Millisecond)
			defer pause.Stop()
			warmUp := sync.OnceFunc(warm.Done)
			defer warmUp()
			c, err := connect(s.addr)
			for err == nil {
				last := false
				if err = c.SetDeadline(time.Now().Add(Timeout)); err != nil {
					break
				}
				if err = c.send("/"); err != nil {
					break
				}
				if last, err = c.receive(); err != nil {
					break
				}
				warmUp()
				if last {
					toldToClose.Add(1)
					c.Close()
					c, err = connect(s.addr)
				}
				select {
				case <-stop:
					c.Close()
					return
				case <-pause.C:
				}
			}
			t.Errorf("client %d: %v", i, err)
		})
	}
	settled := func(n int64) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(Timeout); toldToClose.Load() != n; <-tick.C {
			if time.Now().After(end) {
				t.Errorf("%d were told to close, want %d", toldToClose.Load(), n)
				return
			}
		}
	}
	warm.Wait()
	for i := range int64(sheds) {
		s.Send(ipc.Shed{Count: each, Over: time.Second})
		settled((i + 1) * each)
	}
	// One that comes during another.
	s.Send(ipc.Shed{Count: 2, Over: time.Second})
	s.Send(ipc.Shed{Count: 3, Over: 2 * time.Second})
	settled((sheds + 1) * each)
	close(stop)
	all.Wait()
	if n := toldToClose.Load(); n != (sheds+1)*each {
		t.Errorf("%d were told to close, want %d", n, (sheds+1)*each)
	}
}
