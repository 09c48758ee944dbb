package examples_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/gobwas/ws"
)

// Rolls that no client sees: each keeps its connection, also in the middle of a frame, and no
// message is lost or doubled. If a successor dies midway, only the connections that it had
// are lost.
func TestWebSocketRoll(t *testing.T) {
	c := startChat(t, `timeout = "30s"`, `timeout = "5m"`) // a slow machine has time for another successor
	load := c.load(t, 50)
	load.report(t, "all", func(r loadReport) bool { return r.Open == 50 && r.Received > 0 })
	a, b := c.onSlot(t, "0", "/lobby"), c.onSlot(t, "1", "/lobby")
	for i := range 4 {
		text := fmt.Sprintf("roll %d", i)
		frame := ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte(`{"say":"` + text + `"}`))))
		_, _ = a.conn.Write(frame[:3*i+1])
		b.send(ws.NewFrame(ws.OpText, false, []byte(`{"say":"to`)))
		c.reload(t)
		_, _ = a.conn.Write(frame[3*i+1:])
		a.hears(t, text)
		b.hears(t, text)
		b.send(ws.NewFrame(ws.OpContinuation, true, []byte(`o"}`)))
		a.hears(t, "too")
		b.hears(t, "too")
	}
	for _, k := range []*talker{a, b} {
		waitFor(t, "the end of the first worker", func() error {
			if err := syscall.Kill(k.welcome.PID, 0); err == nil {
				return fmt.Errorf("%d is there", k.welcome.PID)
			}
			return nil
		})
		k.conn.Close()
	}

	had := c.killSuccessor(t)
	c.ready(t)
	c.has(t, 50) // so each client has seen whether it has lost its connection
	r := load.report(t, "all back", func(r loadReport) bool { return r.Open == 50 && r.Opened == 50+r.Lost })
	load.report(t, "more messages", func(now loadReport) bool { return now.Received >= r.Received+1000 })
	r = load.quit(t)
	if r.Open != 50 || r.Lost > had || r.Restarted+r.Refused+r.Closed+r.Shed+r.Failed > 0 {
		t.Errorf("the load saw %+v; who was killed had %d", r, had)
	}
	r.nothingLost(t)

	// At a stop nobody follows.
	last := c.join(t, "/lobby")
	var stopping sync.WaitGroup
	stopping.Go(func() { c.stop(t) })
	if e, err := last.event("none"); !errors.Is(err, closedWith(1012)) {
		t.Errorf("at a stop: %+v, %v", e, err)
	}
	stopping.Wait()
}

// killSuccessor rolls, and kills the first worker that has taken a connection over. It
// returns how many that had.
func (c *chatApp) killSuccessor(t *testing.T) (had int) {
	t.Helper()
	before := c.master.ready(t)
	rolled := make(chan struct{})
	go func() {
		defer close(rolled)
		_, _ = forkd(t, c.bin, "reload", "--keep-config", "chat") // it fails or not: the next worker may be in time
	}()
	find := func(pid int) (victim, has int, err error) {
		a, err := status(t, c.bin, "chat")
		for _, slot := range a.Slots {
			for _, w := range slot.Workers {
				n := w.Connections
				if n != nil && *n > 0 && (w.PID == pid || pid == 0 && !slices.Contains(before, w.PID)) {
					return w.PID, *n, err
				}
			}
		}
		return 0, 0, errors.Join(errors.New("none"), err)
	}
	victim := 0
	waitFor(t, "a successor with connections", func() (err error) {
		victim, _, err = find(0)
		return err
	})
	if err := syscall.Kill(victim, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	_, had, err := find(victim)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-rolled
	return had
}
