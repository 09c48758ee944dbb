package worker

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/forkd/forkd/ipc"
)

// shedTest is a worker with connections, in a synctest bubble: the clock is virtual,
// and a leaked goroutine fails the test.
type shedTest struct {
	t      *testing.T
	worker *Worker
	served *listener
	conns  []*otherConn // as they came
}

// newShedTest makes a worker with idle connections.
func newShedTest(t *testing.T, idle int) *shedTest {
	w := start(ipc.Passed{Channel: -1, Page: -1}, nil, "")
	g := &shedTest{t: t, worker: w, served: w.track(noListener{}, "")}
	g.served.served.Store(true)
	for range idle {
		g.come(Idle)
	}
	t.Cleanup(func() {
		for _, c := range g.conns {
			c.Close()
		}
	})
	return g
}

// noListener is a listener that accepts nothing.
type noListener struct{ net.Listener }

// come adds a connection. Its server closes it when the client has closed.
func (g *shedTest) come(at Phase) *otherConn {
	g.t.Helper()
	time.Sleep(time.Millisecond) // one is accepted after the other
	here, there := net.Pipe()
	g.t.Cleanup(func() { there.Close() })
	c := g.served.keep(here).(*otherConn)
	c.conn.phase.Store(int32(at))
	g.conns = append(g.conns, c)
	if at != Hijacked {
		go func() {
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
				c.Close()
			}
		}()
	}
	return c
}

// after lets time pass.
func (g *shedTest) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// gone returns the numbers of the connections that have closed.
func (g *shedTest) gone() (gone []int) {
	for i, c := range g.conns {
		if c.conn.closed.Load() {
			gone = append(gone, i)
		}
	}
	return gone
}

// marked returns the numbers of the open connections that are marked or told.
func (g *shedTest) marked() (marked []int) {
	for i, c := range g.conns {
		if !c.conn.closed.Load() && c.conn.mark.Load() != unmarked {
			marked = append(marked, i)
		}
	}
	return marked
}

func (g *shedTest) want(what string, got []int, want ...int) {
	g.t.Helper()
	if !slices.Equal(got, want) {
		g.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// over checks that no shed is under way.
func (g *shedTest) over() {
	g.t.Helper()
	synctest.Wait()
	if g.worker.shedder.running || g.worker.drain.flags.Load()&flagShedding != 0 {
		g.t.Error("the shed is not over")
	}
}

// settled is the time from the last portion until idle connections are closed.
const settled = programTime + ipc.DefaultIdle + 2*shedInterval

func upTo(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

func TestShedTakesTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newShedTest(t, 20)
		g.worker.startShed(ipc.Shed{Count: 8, Over: 4 * time.Second})
		for second := range 4 {
			g.after(time.Second)
			if n := len(g.gone()) + len(g.marked()); n != 2*(second+1) {
				t.Errorf("after %d s %d are to go", second+1, n)
			}
		}
		g.after(settled)
		g.want("gone", g.gone(), upTo(8)...)
		g.over()
	})
}

// A shed closes no connection that came after it, even if it is for more than there
// are.
func TestShedLeavesTheNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newShedTest(t, 3)
		g.worker.startShed(ipc.Shed{Count: 100, Over: 3 * time.Second})
		synctest.Wait()
		g.come(Idle)
		g.come(Hijacked)
		g.after(3*time.Second + settled)
		g.want("gone", g.gone(), 0, 1, 2)
		g.over()
		alone := newShedTest(t, 0)
		alone.worker.startShed(ipc.Shed{Count: 1, Over: time.Hour})
		alone.over()
	})
}

// Any connection that the program closes counts, and the worker closes the rest.
func TestShedByTheProgram(t *testing.T) {
	for willing, want := range map[int][]int{4: {6, 7, 8, 9}, 1: {0, 1, 2, 9}, 0: {0, 1, 2, 3}} {
		synctest.Test(t, func(t *testing.T) {
			g := newShedTest(t, 5)
			for range 5 {
				g.come(Hijacked)
			}
			told := 0
			g.worker.OnShed(func(n int) {
				told += n
				if len(g.gone()) >= 4 {
					t.Error("told when all was done")
				}
				for ; n > 0 && willing > 0; n-- {
					willing--
					g.conns[len(g.conns)-1-len(g.gone())].Close()
				}
			})
			g.worker.startShed(ipc.Shed{Count: 4, Over: 2 * time.Second})
			g.after(2*time.Second + settled)
			g.want("gone", g.gone(), want...)
			if told != 4 {
				t.Errorf("told of %d", told)
			}
			g.over()
		})
	}
}

// The worker leaves a portion to the program for programTime.
func TestShedTellsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newShedTest(t, 4)
		told := make(chan int, 1)
		g.worker.OnShed(func(n int) { told <- n })
		g.worker.startShed(ipc.Shed{Count: 2})
		if n := <-told; n != 2 {
			t.Errorf("told of %d", n)
		}
		g.after(programTime - time.Millisecond)
		g.want("chosen", g.marked())
		g.after(time.Millisecond)
		g.want("chosen", g.marked(), 0, 1)
		g.after(ipc.DefaultIdle - time.Millisecond)
		g.want("closed", g.gone())
		g.after(settled)
		g.want("closed", g.gone(), 0, 1)
		g.over()
	})
}

// Hijacked connections are cut after the time of the whole shed and a second; if there
// is no OnShed, when they are due.
func TestShedCutsTheHijacked(t *testing.T) {
	const over = 4 * time.Second
	for _, told := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			g := newShedTest(t, 0)
			for range 8 {
				g.come(Hijacked)
			}
			wait := time.Duration(0)
			if told {
				g.worker.OnShed(func(int) {})
				wait = over + programTime
			}
			g.worker.startShed(ipc.Shed{Count: 4, Over: over})
			g.after(wait)
			for second := range 4 {
				if n := len(g.gone()); n > second {
					t.Errorf("told: %v: %d are cut after %v", told, n, wait+time.Duration(second)*time.Second)
				}
				g.after(time.Second)
			}
			g.after(shedInterval)
			g.want("cut", g.gone(), 0, 1, 2, 3)
			g.over()
		})
	}
}

// Connections that clients close count, and a marked one that was not told stays then.
func TestShedCountsWhatClientsClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newShedTest(t, 0)
		for range 6 {
			g.come(Busy)
		}
		g.worker.startShed(ipc.Shed{Count: 3})
		synctest.Wait()
		g.want("chosen", g.marked(), 0, 1, 2)
		g.conns[5].Close()
		g.conns[4].Close()
		g.after(shedInterval)
		g.want("chosen", g.marked(), 0)
		if !isShed(g.conns[0]) || isShed(g.conns[1]) {
			t.Error("the wrong one is told")
		}
		// Told, it goes, though another goes now.
		g.conns[3].Close()
		g.after(settled)
		g.want("to go", g.marked(), 0)
		g.conns[0].Close()
		g.after(shedInterval)
		g.over()

		// Long after the last portion, what closes by itself does not count.
		g.worker.startShed(ipc.Shed{Count: 1})
		g.after(time.Hour)
		g.conns[2].Close()
		g.after(shedInterval)
		g.want("to go", g.marked(), 1)
		Mark(g.conns[1], Idle)
		g.after(settled)
		g.over()
	})
}

// A connection in use is told with its next response, and closed when it is idle for
// long enough after that.
func TestShedWaitsForRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newShedTest(t, 0)
		long, odd := g.come(Busy), g.come(Idle)
		g.worker.startShed(ipc.Shed{Count: 2})
		for range 20 { // more often than once in its idle time
			g.after(ipc.DefaultIdle * 2 / 3)
			if !g.worker.RequestOn(func() net.Conn { return odd }) {
				t.Error("not the last")
			}
		}
		g.after(ipc.DefaultIdle - time.Millisecond)
		g.want("closed", g.gone())
		g.after(settled)
		g.want("closed", g.gone(), 1)
		g.after(time.Hour)
		Mark(long, Idle)
		g.after(ipc.DefaultIdle - time.Millisecond)
		g.want("closed", g.gone(), 1)
		g.after(settled)
		g.want("closed", g.gone(), 0, 1)
		g.over()
		if g.worker.RequestOn(func() net.Conn { t.Error("asked for the connection"); return nil }) {
			t.Error("the last, when all is over")
		}
	})
}

// A shed that comes during another adds to it.
func TestShedDuringAShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newShedTest(t, 4)
		g.worker.startShed(ipc.Shed{Count: 3, Over: 3 * time.Second})
		g.after(1500 * time.Millisecond)
		g.come(Idle)
		g.come(Idle)
		g.worker.startShed(ipc.Shed{Count: 1})
		g.worker.startShed(ipc.Shed{Count: 1, Over: time.Second})
		synctest.Wait()
		g.come(Idle)
		g.after(3*time.Second + settled)
		g.want("gone", g.gone(), 0, 1, 2, 3, 4)
		g.over()
		// And there may be one after it.
		g.worker.startShed(ipc.Shed{Count: 1})
		g.after(settled)
		g.want("gone", g.gone(), 0, 1, 2, 3, 4, 5)
		g.over()
	})
}

// A surplus of closed connections does not count for the next shed.
func TestShedAfterASurplus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newShedTest(t, 10)
		g.worker.startShed(ipc.Shed{Count: 1, Over: 10 * time.Second})
		synctest.Wait()
		for i := range 3 {
			g.conns[9-i].Close()
		}
		g.worker.startShed(ipc.Shed{Count: 2, Over: 2 * time.Second})
		g.after(10*time.Second + settled)
		g.want("gone", g.gone(), 0, 1, 7, 8, 9)
		g.over()
	})
}

// A drain ends a shed; the program is not told of the rest.
func TestShedEndsWithADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newShedTest(t, 0)
		for range 8 {
			g.come(Busy)
		}
		calls, release := 0, make(chan struct{})
		g.worker.OnShed(func(int) { calls++; <-release })
		g.worker.startShed(ipc.Shed{Count: 8, Over: 8 * time.Second})
		g.after(4500 * time.Millisecond)
		g.worker.drain.onMessage(ipc.Drain{Reason: ipc.ReasonRoll, Deadline: time.Now().Add(time.Hour)})
		g.over()
		close(release)
		g.after(time.Hour)
		g.want("gone", g.gone())
		if calls != 1 {
			t.Errorf("%d calls, want that of before the drain", calls)
		}
	})
}

// The worker does not wait for OnShed; the next call adds up what came meanwhile.
func TestShedOfABusyProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newShedTest(t, 8)
		release := make(chan struct{})
		var told []int
		g.worker.OnShed(func(n int) { told = append(told, n); <-release })
		g.worker.startShed(ipc.Shed{Count: 8, Over: 8 * time.Second})
		g.after(8*time.Second + settled)
		g.want("gone", g.gone(), upTo(8)...)
		g.over()
		close(release)
		synctest.Wait()
		g.want("told", told, 1, 7)
	})
}

// A connection of a listener that is not served by Serve is the program's own, unless
// it was marked.
func TestShedOfTheUnserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newShedTest(t, 0)
		g.served.served.Store(false)
		g.come(phaseNew)
		g.come(Idle)
		g.worker.OnShed(func(int) {})
		g.worker.startShed(ipc.Shed{Count: 2, Over: 10 * time.Second})
		g.after(10*time.Second + settled)
		g.want("gone", g.gone(), 1)
		g.after(10 * time.Second)
		g.want("gone", g.gone(), 0, 1)
		g.over()
	})
}

// A shed closes with a lingering close, as a drain does.
func TestShedLingers(t *testing.T) {
	w := start(ipc.Passed{Channel: -1, Page: -1}, nil, "")
	ln, err := w.Listen("http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	Mark(c, Busy)
	tracked(c).mark.Store(told)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if p := tracked(c).load(); p != lingering {
		t.Errorf("closed at once, in phase %d", p)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// Portions come one in each second, at the same random moment of it, are equal, and
// add up. Single connections of many workers do not all close in the first second.
func TestShedRequest(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		n    int
		over time.Duration
	}{{5, 2 * time.Second}, {1, 10 * time.Second}, {3, 0}, {7, 300 * time.Millisecond}, {1 << 30, time.Minute}, {99, 1500 * time.Millisecond}, {3, time.Hour}} {
		first := map[int]bool{}
		for seed := range uint64(200) {
			r := newShedRequest(now, c.n, c.over, rand.New(rand.NewPCG(seed, seed)).Float64())
			if n := r.due(r.first.Add(-1)); n != 0 {
				t.Fatalf("%+v: %d before the first portion", c, n)
			}
			before := 0
			for part := range r.portions {
				from := now.Add(time.Duration(part) * r.interval)
				at := r.first.Add(time.Duration(part) * r.interval)
				if at.Before(from) || at.After(from.Add(r.interval)) {
					t.Fatalf("%+v: portion %d comes %v after its beginning", c, part, at.Sub(from))
				}
				n := r.due(at) - before
				if even := c.n / r.portions; n < even || n > even+1 {
					t.Fatalf("%+v: %d in portion %d", c, n, part)
				}
				before += n
			}
			if n := r.due(now.Add(c.over)); before != c.n || n != c.n {
				t.Fatalf("%+v: %d in all, %d at the end", c, before, n)
			}
			first[int(r.first.Sub(now)/time.Second)] = true
		}
		if c.n == 1 && len(first) < 5 {
			t.Errorf("all begin in %v", first)
		}
	}
}
