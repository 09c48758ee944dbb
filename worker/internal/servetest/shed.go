package drill

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker/internal/fake"
)

// ownersTime is how long a worker waits for what the program closes when it is
// told to shed.
const ownersTime = time.Second

// line is so many connections that have had an answer each, the oldest first.
func (s *stage) line(n int) []*client {
	s.t.Helper()
	all := make([]*client, n)
	for i := range all {
		all[i] = s.dial()
		all[i].get(s.t)
	}
	return all
}

// hijacked is a connection that the handler has taken over.
func (s *stage) hijacked() *client {
	s.t.Helper()
	c := s.dial()
	if err := c.send("/hijack"); err != nil {
		s.t.Fatal(err)
	}
	s.entered()
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
func shedIdle(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	all := s.line(7)
	began := time.Now()
	s.Say(ipc.Shed{Count: 4, Over: 2 * time.Second})
	for _, c := range all[:4] {
		if early := c.closed(t).Sub(began); early < ipc.DefaultIdle {
			t.Errorf("closed after %v", early)
		}
		c.Close()
	}
	s.Await(ipc.Counters{Attached: true, Open: 3, Accepts: 7, Requests: 7})
	stays(t, all[4:]...)
}

// One whose client speaks is told to close with an answer, and closed after it.
func shedBusy(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	all := s.line(3)
	s.Say(ipc.Shed{Count: 1})
	for end := time.Now().Add(fake.Patience); !all[0].get(t); {
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
func shedUnderWay(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	long := s.dial()
	if err := long.send("/slow"); err != nil {
		t.Fatal(err)
	}
	s.entered()
	idle, other := s.dial(), s.dial()
	idle.get(t)
	other.get(t)
	s.Say(ipc.Shed{Count: 2, Over: 500 * time.Millisecond})
	idle.closed(t)
	stays(t, other)
	s.app.Release <- struct{}{}
	last, err := long.receive()
	if err != nil {
		t.Fatal(err)
	}
	if !last && !long.get(t) { // a response that has begun may not say so, the next one does
		t.Error("not told to close")
	}
	long.closed(t)
	stays(t, other)
}

// The program is told first; what closes then counts, though it is not the
// oldest.
func shedByTheProgram(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	told := make(chan int, 10)
	s.worker.OnShed(func(n int) { told <- n })
	old := s.line(3)
	young := []*client{s.hijacked(), s.hijacked()}
	s.Say(ipc.Shed{Count: 2})
	select {
	case n := <-told:
		if n != 2 {
			t.Errorf("told of %d", n)
		}
	case <-time.After(fake.Patience):
		t.Fatal("not told")
	}
	for _, c := range young {
		c.Close() // as a client does that has been sent a close frame
	}
	s.Await(ipc.Counters{Attached: true, Open: 3, Accepts: 5, Requests: 5})
	// Long enough for anything else to be closed.
	silence := time.NewTimer(ownersTime + 2*ipc.DefaultIdle)
	defer silence.Stop()
	<-silence.C
	stays(t, old...)
}

// A hijacked connection of a program that is told and lets it be is cut when it
// has had the time of the whole shed and a second; the others stay.
func shedHijacked(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	told := make(chan struct{}, 10)
	s.worker.OnShed(func(int) { told <- struct{}{} })
	first, second := s.hijacked(), s.hijacked()
	const over = time.Second
	began := time.Now()
	s.Say(ipc.Shed{Count: 1, Over: over})
	select {
	case <-told:
	case <-time.After(fake.Patience):
		t.Fatal("not told")
	}
	first.echo(t)
	if early := first.closed(t).Sub(began); early < over+ownersTime {
		t.Errorf("cut after %v", early)
	}
	second.echo(t)
	s.Await(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Requests: 2})
}

// Where the program can't be told, hijacked connections are closed all the same.
func shedUntold(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	first, idle, second := s.hijacked(), s.line(1)[0], s.hijacked()
	s.Say(ipc.Shed{Count: 2, Over: time.Second})
	first.closed(t)
	idle.closed(t)
	idle.Close()
	second.echo(t)
	s.Await(ipc.Counters{Attached: true, Open: 1, Accepts: 3, Requests: 3})
}

// A drain takes over from a shed.
func shedAndADrain(t *testing.T, serve Serve) {
	s := setUp(t, serve)
	told := make(chan int, 10)
	s.worker.OnShed(func(n int) { told <- n })
	all := s.line(4)
	s.Say(ipc.Shed{Count: 4, Over: 4 * time.Second})
	select {
	case <-told:
	case <-time.After(fake.Patience):
		t.Fatal("not told")
	}
	s.drain(ipc.ReasonRoll, fake.Patience, 0)
	for _, c := range all {
		if !c.get(t) {
			t.Error("not told to close")
		}
		c.Close()
	}
	if err := s.done(); err != nil {
		t.Error(err)
	}
}

// Clients that keep their connections and never retry see no failure while one
// shed follows the other, and as many connections are closed as was asked for.
func shedUnderLoad(t *testing.T, serve Serve) {
	const clients, sheds, each = 12, 3, 5
	s := setUp(t, serve)
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
				if err = c.SetDeadline(time.Now().Add(fake.Patience)); err != nil {
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
		for end := time.Now().Add(fake.Patience); toldToClose.Load() != n; <-tick.C {
			if time.Now().After(end) {
				t.Errorf("%d were told to close, want %d", toldToClose.Load(), n)
				return
			}
		}
	}
	warm.Wait()
	for i := range int64(sheds) {
		s.Say(ipc.Shed{Count: each, Over: time.Second})
		settled((i + 1) * each)
	}
	// One that comes during another.
	s.Say(ipc.Shed{Count: 2, Over: time.Second})
	s.Say(ipc.Shed{Count: 3, Over: 2 * time.Second})
	settled((sheds + 1) * each)
	close(stop)
	all.Wait()
	if n := toldToClose.Load(); n != (sheds+1)*each {
		t.Errorf("%d were told to close, want %d", n, (sheds+1)*each)
	}
}
