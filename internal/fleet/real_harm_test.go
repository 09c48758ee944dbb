package fleet_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// A server that stands still holds nothing up but the report: it is said to be
// down since the first beat that failed, nothing piles up, and a whole report is
// there within an interval and a second of its going on.
//
// It measures the heap, so no other test runs beside it.
func TestRealPaused(t *testing.T) { //nolint:paralleltest // see above
	const interval = time.Second
	s := start(t, options{})
	a := newApp("b1", 64)
	r := startReport(t, a, fleet.Settings{URL: "redis://" + s.address, Interval: interval})
	r.seen(t, s)
	before, routines := heap(), runtime.NumGoroutine()
	s.pause()
	a.hold(500)
	down := r.is(t, control.RedisDown)
	if down.Error == "" {
		t.Error("it doesn't say why it is down")
	}
	a.mu.Lock()
	asked := a.statuses
	a.mu.Unlock()
	until(t, "three more tries", func() error {
		began := time.Now()
		if h := r.Health(); h.State != control.RedisDown || !h.Since.Equal(down.Since) {
			t.Fatalf("health: %+v, before: %+v", h, down)
		}
		if took := time.Since(began); took > patience/2 {
			t.Fatalf("the health took %v", took)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.statuses < asked+3 {
			return fmt.Errorf("%d", a.statuses-asked)
		}
		return nil
	})
	if grown := heap() - before; grown > 1<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	if now := runtime.NumGoroutine(); now > routines+5 {
		t.Errorf("%d goroutines, before %d", now, routines)
	}
	a.hold(700)
	s.resume()
	began := time.Now()
	r.seen(t, s)
	const stall = patience / 2 // of the machine
	if took := time.Since(began); took > interval+time.Second+stall {
		t.Errorf("a whole report was there after %v", took)
	} else {
		t.Logf("a whole report was there after %v", took)
	}
	r.is(t, control.RedisUp)

	s.pause()
	r.is(t, control.RedisDown)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began = time.Now()
	r.Close(ctx, true)
	if took := time.Since(began); took > patience/2 {
		t.Errorf("a leave that had 2 s took %v", took)
	}
}

// heap is how much of it is in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // no heap is that large
}

// A server that is full, or may not be written to, or is busy otherwise, says so,
// and its words are in the status.
func TestRealRefusals(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]struct{ do, undo []string }{
		"full":    {[]string{"CONFIG", "SET", "maxmemory", "1"}, []string{"CONFIG", "SET", "maxmemory", "0"}},
		"replica": {[]string{"REPLICAOF", "127.0.0.1", "1"}, []string{"REPLICAOF", "NO", "ONE"}},
		"alone":   {[]string{"CONFIG", "SET", "min-replicas-to-write", "1"}, []string{"CONFIG", "SET", "min-replicas-to-write", "0"}},
	} {
		says := map[string]string{"full": "OOM", "replica": "READONLY", "alone": "NOREPLICAS"}[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, options{})
			a := newApp("b1", 2)
			r := startReport(t, a, fleet.Settings{URL: "redis://" + s.address})
			r.seen(t, s)
			s.do(harm.do...)
			r.said(t, says)
			down := r.is(t, control.RedisDown)
			if strings.ContainsAny(down.Error, "\r\n") {
				t.Errorf("more than a line: %q", down.Error)
			}
			a.hold(99)
			s.do(harm.undo...)
			r.seen(t, s)
			if h := r.is(t, control.RedisUp); h.Error != "" || !h.Since.After(down.Since) {
				t.Errorf("%+v", h)
			}
			if log := r.log.String(); strings.Count(log, says) != 1 {
				t.Errorf("the log should say it once:\n%s", log)
			}
		})
	}
}

// The same from the start: there was never a report, and there is one as soon as
// there can be one.
func TestRealRefusalsAtFirst(t *testing.T) {
	t.Parallel()
	s := start(t, options{config: []string{"maxmemory 1"}})
	r := startReport(t, newApp("b1", 2), fleet.Settings{URL: "redis://" + s.address})
	if h := r.said(t, "OOM"); h.State == control.RedisUp {
		t.Errorf("%+v", h)
	}
	s.do("CONFIG", "SET", "maxmemory", "0")
	r.seen(t, s)
	r.is(t, control.RedisUp)
}

// After FLUSHALL the next beat brings everything back, forkd:apps too, and the
// events that are still known are not there twice.
func TestRealWiped(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	a := newApp("b1", 2)
	a.happen("up", "")
	r := startReport(t, a, fleet.Settings{URL: "redis://" + s.address, ConnectionLimit: 50, TTL: 2 * time.Hour})
	r.seen(t, s)
	for range 3 {
		s.do("FLUSHALL")
		s.do("SCRIPT", "FLUSH")
		a.happen("ready", "")
		r.seen(t, s)
		until(t, "every key", func() error {
			if n := s.do("EXISTS", "forkd:apps", "forkd:{shop}:hosts", r.key(), "forkd:{shop}:load", "forkd:{shop}:events"); n != int64(5) {
				return fmt.Errorf("%v of 5 are there: %v", n, s.do("KEYS", "*"))
			}
			if got := appended(t, s); len(slices.Compact(slices.Clone(got))) != len(got) {
				t.Fatalf("events twice: %q", got)
			}
			return nil
		})
	}
	if log := r.log.String(); strings.Contains(log, "WARN") {
		t.Errorf("it is no trouble:\n%s", log)
	}
}

// What others have put in the place of the reporter's own notes doesn't stop it.
func TestRealLies(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	a := newApp("b1", 1)
	r := startReport(t, a, fleet.Settings{URL: "redis://" + s.address, Control: true})
	r.seen(t, s)
	want := []string{}
	check := func() {
		t.Helper()
		a.happen("ready", "")
		want = append(want, fmt.Sprintf("%d ready ", len(want)+1))
		until(t, "the event", func() error {
			if got := appended(t, s); !slices.Equal(got, want) {
				return fmt.Errorf("%q, state %+v", got, r.Health())
			}
			return nil
		})
		r.seen(t, s)
		r.is(t, control.RedisUp)
	}
	check()
	for _, value := range []string{"nan", "-5", "1e300", "99999999999999999999", "1000000", "x", ""} {
		s.do("HSET", r.key(), "event_seq", value)
		check()
	}
	s.do("SET", r.key(), "no hash")
	check()
	s.do("HSET", r.key(), "boot", "\x1b[2J", "event_boot", "")
	check()
	s.do("SET", "forkd:{shop}:cmd:web-1", "no list")
	check()
	s.do("SET", "forkd:apps", "no zset")
	check()
	// These it can't do without, and says so.
	for _, key := range []string{"hosts", "load", "events"} {
		s.do("DEL", "forkd:{shop}:"+key)
		s.do("SET", "forkd:{shop}:"+key, "hello")
		a.happen("ready", "")
		r.said(t, "WRONGTYPE")
		s.do("DEL", "forkd:{shop}:"+key)
		r.is(t, control.RedisUp)
		r.seen(t, s)
	}
}

// A server whose connections end after each command is reported to as any other.
func TestRealCutAfterEach(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	p := startProxy(t, s)
	p.behave(func(command []string) fate { return fate{cut: isBeat(command)} })
	a := newApp("b1", 2)
	r := startReport(t, a, fleet.Settings{URL: p.url()})
	for i := range 5 {
		a.hold(int64(100 * i))
		r.seen(t, s)
	}
	if beats, opened := p.beats.Load(), p.opened.Load(); beats < 5 || opened < 5 {
		t.Errorf("%d beats on %d connections", beats, opened)
	}
}

// Replies get lost: what they were about has been done. Events are there once
// each and in their order, commands are obeyed once each.
func TestRealLostReplies(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	p := startProxy(t, s)
	var n atomic.Int64
	p.behave(func(command []string) fate { return fate{lose: isBeat(command) && n.Add(1)%2 == 0} })
	a := newApp("b1", 2)
	r := startReport(t, a, fleet.Settings{URL: p.url(), Interval: 100 * time.Millisecond, Control: true})
	var events, commands []string
	for i := range 20 {
		id := fmt.Sprintf("c%d", i)
		commands = append(commands, id)
		order(t, s, "web-1", id, "drain", "{}")
		for range 10 {
			a.happen("ready", "")
		}
		if i%5 == 4 {
			until(t, "the commands so far", func() error {
				if got := a.obeyed(); len(got) < len(commands) {
					return fmt.Errorf("%q", got)
				}
				return nil
			})
		}
	}
	until(t, "all events and no command left", func() error {
		if left := s.do("LLEN", "forkd:{shop}:cmd:web-1"); left != int64(0) {
			return fmt.Errorf("%v commands wait", left)
		}
		if got := appended(t, s); len(got) < len(a.events) {
			return fmt.Errorf("%d of %d events", len(got), len(a.events))
		}
		return nil
	})
	if got := a.obeyed(); !slices.Equal(got, commands) {
		t.Errorf("obeyed %q", got)
	}
	a.mu.Lock()
	for _, e := range a.events {
		events = append(events, fmt.Sprintf("%d %s %s", e.Seq, e.Type, e.Reason))
	}
	a.mu.Unlock()
	if got := appended(t, s); !slices.Equal(got, events) {
		t.Errorf("events: %q", got)
	}
	p.behave(func([]string) fate { return fate{} })
	r.is(t, control.RedisUp)
}

// A wrong password is a matter of the file: when that is right, so is the report.
func TestRealWrongPassword(t *testing.T) {
	t.Parallel()
	s := start(t, options{config: []string{"requirepass right"}, password: "right"})
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, "hunter2\n")
	r := startReport(t, newApp("b1", 1), fleet.Settings{URL: "redis://" + s.address, PasswordFile: file})
	if h := r.said(t, "WRONGPASS"); h.State == control.RedisUp || strings.Contains(h.Error, "hunter2") {
		t.Errorf("%+v", h)
	}
	write(t, file, "right\n")
	r.seen(t, s)
	r.is(t, control.RedisUp)
	// Those who are in stay in; whoever comes again needs the new one.
	s.do("CONFIG", "SET", "requirepass", "newer")
	s.options.password = "newer"
	s.do("CLIENT", "KILL", "TYPE", "normal")
	r.said(t, "WRONGPASS")
	write(t, file, "newer\n")
	r.seen(t, s)
	r.is(t, control.RedisUp)
	if log := r.log.String(); strings.Contains(log, "hunter2") || strings.Contains(log, "newer") {
		t.Errorf("a password is in the log:\n%s", log)
	}
}

// What answers on the port is a web server.
func TestRealAnotherProtocol(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	r := startReport(t, newApp("b1", 1), fleet.Settings{URL: "redis://" + web.Listener.Addr().String()})
	if h := r.said(t, "does not speak Redis's protocol"); h.State == control.RedisUp {
		t.Errorf("%+v", h)
	}
	// It is Redis, and only one of both speaks TLS.
	s := start(t, options{secure: newAuthority(t, "ours")})
	r = startReport(t, newApp("b2", 1), fleet.Settings{URL: "redis://" + s.address})
	if h := r.said(t, "connection"); h.State == control.RedisUp {
		t.Errorf("%+v", h)
	}
	s = start(t, options{})
	r = startReport(t, newApp("b3", 1), fleet.Settings{URL: "rediss://" + s.address})
	until(t, "an error", func() error { // Redis may take the greeting for a line that has no end yet
		if h := r.Health(); h.State == control.RedisUp || !strings.Contains(h.Error, "TLS") && !strings.Contains(h.Error, "no answer") {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})
}

// Slow is not down; slower than a second is.
func TestRealSlow(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	p := startProxy(t, s)
	slow := func(d time.Duration) {
		p.behave(func(command []string) fate {
			if isBeat(command) {
				return fate{delay: d}
			}
			return fate{}
		})
	}
	slow(300 * time.Millisecond)
	a := newApp("b1", 1)
	r := startReport(t, a, fleet.Settings{URL: p.url()})
	for i := range 3 {
		a.hold(int64(100 * i))
		r.seen(t, s)
	}
	r.is(t, control.RedisUp)
	slow(time.Minute)
	r.is(t, control.RedisDown)
	slow(0)
	a.hold(777)
	r.seen(t, s)
	r.is(t, control.RedisUp)
}

// What a server in trouble answers is shown in one line, and gone with the
// trouble.
func TestRealAnswersOfTrouble(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	p := startProxy(t, s)
	r := startReport(t, newApp("b1", 1), fleet.Settings{URL: p.url()})
	r.is(t, control.RedisUp)
	for _, answer := range []string{
		"-LOADING Redis is loading the dataset in memory",
		"-BUSY Redis is busy running a script",
		"-MISCONF Redis is configured to save RDB snapshots, but it is unable to persist to disk",
		"-CLUSTERDOWN Hash slot not served",
		"-TRYAGAIN Multiple keys request during rehashing of slot",
		"-NOPERM this user has no permissions to run the 'evalsha' command",
		"-ERR unknown command 'EVALSHA'",
		"-MASTERDOWN Link with MASTER is down",
		"+OK", ":7", "$-1", "*-1", "*0", "*1\r\n*1\r\n*1\r\n:1", "$4\r\nlong",
	} {
		p.behave(func(command []string) fate {
			if isBeat(command) {
				return fate{text: answer + "\r\n"}
			}
			return fate{}
		})
		down := r.is(t, control.RedisDown)
		if word, _, found := strings.Cut(strings.TrimPrefix(answer, "-"), " "); found && !strings.Contains(down.Error, word) || down.Error == "" {
			t.Errorf("%q: said is %q", answer, down.Error)
		}
		p.behave(func([]string) fate { return fate{} })
		r.is(t, control.RedisUp)
	}
}

// A server that ends and comes again, empty, on the same port.
func TestRealRestarted(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	a := newApp("b1", 1)
	r := startReport(t, a, fleet.Settings{URL: "redis://" + s.address})
	r.seen(t, s)
	s.end()
	if h := r.is(t, control.RedisDown); !strings.Contains(h.Error, "refused") && !strings.Contains(h.Error, "EOF") && !strings.Contains(h.Error, "reset") {
		t.Errorf("%+v", h)
	}
	a.hold(3)
	s.again()
	r.seen(t, s)
	r.is(t, control.RedisUp)
}

// A port that nobody listens on is "down" only when it has once been "up".
func TestRealNobodyThere(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	s.end()
	r := startReport(t, newApp("b1", 1), fleet.Settings{URL: "redis://" + s.address})
	if h := r.said(t, "refused"); h.State != control.RedisConnecting {
		t.Errorf("%+v", h)
	}
	s.again()
	r.seen(t, s)
	r.is(t, control.RedisUp)
}
