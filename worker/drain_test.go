package worker

import (
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

func TestPlan(t *testing.T) {
	began := time.Now()
	at := func(d time.Duration) time.Time { return began.Add(d) }
	for name, c := range map[string]struct {
		reason      string
		whole, idle time.Duration
		from, until time.Duration
	}{
		"the last tenth":          {ipc.ReasonRoll, 30 * time.Second, time.Second, 27 * time.Second, 29500 * time.Millisecond},
		"short":                   {ipc.ReasonScale, time.Second, time.Second, 900 * time.Millisecond, 950 * time.Millisecond},
		"stop":                    {ipc.ReasonStop, 30 * time.Second, time.Second, time.Second, time.Second},
		"stop at once":            {ipc.ReasonStop, 30 * time.Second, 0, 0, 0},
		"stop, idle past the end": {ipc.ReasonStop, 10 * time.Second, time.Hour, 9 * time.Second, 9500 * time.Millisecond},
	} {
		got := planFor(drain{reason: c.reason, began: began, deadline: at(c.whole), idle: c.idle})
		if want := (plan{at(c.from), at(c.until)}); got != want {
			t.Errorf("%s: from %v until %v, want %v and %v", name,
				got.from.Sub(began), got.until.Sub(began), c.from, c.until)
		}
	}
}

// Quotas add up to all connections by until, evenly.
func TestQuota(t *testing.T) {
	began := time.Now()
	p := plan{from: began, until: began.Add(40 * drainInterval)}
	left := 1000
	for now := began; now.Before(p.until); now = now.Add(drainInterval) {
		n := p.quota(left, now)
		if n > 30 {
			t.Fatalf("%d of 1000 at once", n)
		}
		left -= n
	}
	if left > 30 || p.quota(left, p.until) != left {
		t.Errorf("%d connections are left at the end", left)
	}
	if n := p.quota(0, began); n != 0 {
		t.Errorf("the quota of nothing is %d", n)
	}
}

// queued is a served listener with connections in its queue, and a channel that starts
// to accept them.
func queued(t *testing.T, w *Worker, n int) (addr string, accept chan struct{}, accepted chan net.Conn, served chan error) {
	t.Helper()
	ln, err := w.Listen("http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	accept, accepted, served = make(chan struct{}), make(chan net.Conn, n), make(chan error, 1)
	go func() {
		served <- w.Serve(ln, func(l net.Listener) error {
			<-accept
			for {
				c, err := l.Accept()
				if err != nil {
					close(accepted)
					return err
				}
				accepted <- c
			}
		})
	}()
	return ln.Addr().String(), accept, accepted, served
}

// refused waits until nothing listens any more.
func refused(t *testing.T, addr string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if errors.Is(err, unix.ECONNREFUSED) {
			return
		}
		if err == nil {
			c.Close()
		}
	}
	t.Fatalf("something still listens on %s", addr)
}

// A worker without a successor accepts what is queued when it stops; one with a
// successor leaves it to that.
func TestQueueAtTheEnd(t *testing.T) {
	for reason, want := range map[string]int{ipc.ReasonStop: 5, ipc.ReasonScale: 5, ipc.ReasonRoll: 0, ipc.ReasonRecycle: 0} {
		w := start(ipc.Passed{Channel: -1, Page: -1}, nil, "")
		addr, accept, accepted, served := queued(t, w, 5)
		w.drain.onMessage(ipc.Drain{Reason: reason, Deadline: time.Now().Add(time.Minute)})
		if want == 0 {
			refused(t, addr)
		}
		close(accept)
		n := 0
		for c := range accepted {
			n++
			c.Close()
		}
		if err := <-served; err != nil {
			t.Errorf("%s: %v", reason, err)
		}
		if n != want {
			t.Errorf("%s: accepted %d of 5 queued connections, want %d", reason, n, want)
		}
	}
}

// If serve ends by itself, Serve returns its error and closes the listener.
func TestServeFails(t *testing.T) {
	w := start(ipc.Passed{Channel: -1, Page: -1}, nil, "")
	ln, err := w.Listen("http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("no certificate")
	if err := w.Serve(ln, func(net.Listener) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("Serve returned %v", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is still open: %v", err)
	}
}

// Looking for idle connections goes on where it was: those in use at the front of the list are
// not passed again for each that moves, but once the end was reached, and what has left the
// list meanwhile ends nothing.
func TestMoveIdleGoesOn(t *testing.T) {
	w, l := withListener(t)
	l.movable = true
	w.drain.flags.Or(flagDraining | flagHanding)
	var all []*conn
	for i := range 4 + maxMoving {
		here, there := net.Pipe()
		t.Cleanup(func() { here.Close(); there.Close() })
		c, _ := wrap(here)
		c.raw = here
		if i == 0 {
			c.phase.Store(int32(Hijacked))
		} else {
			c.phase.Store(int32(Idle))
		}
		l.add(c)
		all = append(all, c)
	}
	var left []int
	expect := func(anew bool, want ...int) {
		t.Helper()
		l.moveIdle(anew)
		left = left[:0]
		for i, c := range all {
			if c.load() != moving {
				left = append(left, i)
			}
		}
		if !slices.Equal(left, want) {
			t.Errorf("not on their way: %v, want %v", left, want)
		}
	}
	gone := func(c *conn) { c.ended.Store(true); l.remove(c) }
	const last = 3 + maxMoving
	expect(true, 0, last-2, last-1, last)
	expect(true, 0, last-2, last-1, last) // 256 are enough
	all[0].phase.Store(int32(Idle))
	all[1].phase.Store(int32(Busy)) // a request was faster
	expect(false, 0, 1, last-1, last)
	gone(all[last-1]) // where it would go on
	gone(all[2])
	expect(false, 0, 1, last-1)
	all[3].phase.Store(int32(Busy))
	all[1].phase.Store(int32(Idle))
	expect(false, 0, 1, 3, last-1) // at the end
	expect(true, 1, 3, last-1)
	gone(all[4])
	expect(false, 3, last-1)
}

// A connection that the deadline has cut while it was on its way does not come back: it is
// counted as closed once.
func TestCutOnItsWay(t *testing.T) {
	w, l := withListener(t)
	here, there := net.Pipe()
	defer there.Close()
	c, _ := wrap(here)
	c.raw = here
	l.admit(false)
	l.add(c)
	c.going.Store(true)
	l.cut()
	w.handed(c, nil, outcomeRefused)
	if !l.endIfEmpty() || w.Counters().Open != 0 {
		t.Errorf("it is listed, or counted: %+v", w.Counters())
	}
}
