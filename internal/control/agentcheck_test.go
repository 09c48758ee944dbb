package control

import (
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestAgentLine(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	app := func(state string, ready, wanted int, connections *int64) App {
		return App{State: state, Totals: Totals{Ready: ready, Wanted: wanted, Connections: connections}}
	}
	for want, f := range map[string]Figures{
		"up ready 100%":             {App: app("ready", 4, 4, n(12))},
		"up ready 75%":              {App: app("ready", 3, 4, nil)},
		"up ready 33%":              {App: app("ready", 1, 3, nil)},
		"up ready 73% maxconn:512":  {App: app("ready", 4, 4, n(138)), Capacity: n(512)},
		"up ready 23% maxconn:512":  {App: app("ready", 2, 4, n(138)), Capacity: n(512)},
		"up ready 100% maxconn:512": {App: app("ready", 4, 4, nil), Capacity: n(512)}, // how many there are is not known
		// A full host is not drained: where all are full, the balancer would have nobody.
		"up ready 1% maxconn:512":  {App: app("ready", 4, 4, n(9999)), Capacity: n(512)},
		"up ready 1% maxconn:513":  {App: app("ready", 1, 1000, n(0)), Capacity: n(513)},
		"up ready 90% maxconn:150": {App: app("ready", 4, 4, n(10)), Capacity: n(100), Limit: n(150)},
		"up ready 25% maxconn:37":  {App: app("ready", 1, 4, n(0)), Capacity: n(150), Limit: n(150)},   // the others' shares are not there
		"up ready 1% maxconn:1":    {App: app("ready", 1, 200, n(0)), Capacity: n(100), Limit: n(100)}, // 0 is no limit to HAProxy
		// More are ready than are wanted while a slot leaves.
		"up ready 98% maxconn:50":       {App: app("ready", 3, 2, n(1)), Capacity: n(50)},
		"up drain 0% maxconn:512":       {App: app("draining", 4, 4, n(138)), Capacity: n(512)},
		"up drain 0%":                   {App: app("draining", 1, 4, n(138))},
		"down # no worker is ready":     {App: app("starting", 0, 4, n(0)), Capacity: n(512)},
		"stopped # the app stops":       {App: app("stopping", 4, 4, n(138)), Capacity: n(512)},
		"stopped # the app stops ":      {App: app("stopping", 0, 0, nil)},
		"down # no worker is ready ":    {App: app("draining", 0, 4, n(0))}, // standby
		"down # no worker is ready  ":   {App: app("starting", 1, 4, n(0))}, // not up yet
		"down # no worker is ready   ":  {},
		"down # no worker is ready    ": {App: app("ready", 0, 0, nil)},
	} {
		if got := agentLine(&f); got != strings.TrimRight(want, " ") {
			t.Errorf("%+v: %q, want %q", f, got, want)
		}
	}
}

// agentAt serves agent checks until the test ends, and returns where.
func agentAt(t *testing.T, b Backend) string {
	t.Helper()
	files := openFiles(t)
	before := goleak.IgnoreCurrent()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ServeAgentCheck(ctx, ln, b) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("it has not ended")
		}
		goleak.VerifyNone(t, before)
		if left := openFiles(t); left > files {
			t.Errorf("%d descriptors are open, %d were before", left, files)
		}
	})
	return ln.Addr().String()
}

func dialAgent(t *testing.T, at string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// told is all that a client gets.
func told(t *testing.T, at string) string {
	t.Helper()
	c := dialAgent(t, at)
	defer c.Close()
	text, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("after %q: %v", text, err)
	}
	return string(text)
}

func readyApp() Figures {
	return Figures{App: App{State: StateReady, Totals: Totals{Ready: 1, Wanted: 1}}}
}

// Whoever asks often, sends what nobody wants, does not read or does not leave harms nobody:
// the next one has its line at once, and the app is asked a few times a second.
func TestAgentCheckAmongStrangers(t *testing.T) {
	var asked atomic.Int32
	b := &fake{figures: func(context.Context) (Figures, error) { asked.Add(1); return readyApp(), nil }}
	at := agentAt(t, b)
	began := time.Now()
	const line = "up ready 100%\n"
	files, routines := openFiles(t), runtime.NumGoroutine()
	var idle []net.Conn // which neither read nor close
	for range 3 * agentHeld {
		c := dialAgent(t, at)
		defer c.Close()
		idle = append(idle, c)
	}
	if got := told(t, at); got != line {
		t.Errorf("beside those who stay: %q", got)
	}
	if more := openFiles(t) - files - len(idle); more > agentHeld+2 {
		t.Errorf("%d descriptors for %d who stay", more, len(idle))
	}
	if more := runtime.NumGoroutine() - routines; more > agentHeld+10 {
		t.Errorf("%d goroutines for %d who stay", more, len(idle))
	}
	for i := range 100 {
		var askers sync.WaitGroup
		for range 10 { // fewer than agentHeld: who waits for the machine is in nobody's way
			askers.Go(func() {
				c := dialAgent(t, at)
				if i%2 == 0 { // nothing is read: it must not cost the line
					_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
				}
				text, err := io.ReadAll(c)
				if string(text) != line || err != nil {
					t.Errorf("%q, %v", text, err)
				}
				c.Close()
			})
		}
		askers.Wait()
	}
	if most := int32(time.Since(began)/agentFresh) + 2; asked.Load() > most {
		t.Errorf("the app was asked %d times in %s", asked.Load(), time.Since(began))
	}
}

// A client that sends more than anybody takes, and stays, has its line and is let go.
func TestAgentCheckReadsNothing(t *testing.T) {
	at := agentAt(t, &fake{figures: func(context.Context) (Figures, error) { return readyApp(), nil }})
	c := dialAgent(t, at)
	defer c.Close()
	sent := 0
	for {
		n, err := c.Write(make([]byte, 64<<10))
		sent += n
		if err != nil {
			break // it has been closed: nobody waits for a client for longer than agentLinger
		}
	}
	if sent > 32<<20 {
		t.Errorf("%d bytes were taken", sent)
	}
	if got := told(t, at); got != "up ready 100%\n" {
		t.Errorf("the next one got %q", got)
	}
}

// While the app does not answer, what it said last holds; before it has said anything, no
// worker is ready. Nobody waits for long.
func TestAgentCheckOfAnAppThatHangs(t *testing.T) {
	var hangs atomic.Bool
	b := &fake{figures: func(ctx context.Context) (Figures, error) {
		if hangs.Load() {
			<-ctx.Done()
			return Figures{}, ctx.Err()
		}
		return readyApp(), nil
	}}
	at := agentAt(t, b)
	hangs.Store(true)
	if got := told(t, at); got != "down # no worker is ready\n" {
		t.Errorf("before it has said anything: %q", got)
	}
	hangs.Store(false)
	if got := told(t, at); got != "up ready 100%\n" {
		t.Errorf("then: %q", got)
	}
	hangs.Store(true)
	time.Sleep(agentFresh) // what it has said is old now
	if got := told(t, at); got != "up ready 100%\n" {
		t.Errorf("while it hangs: %q", got)
	}
}
