package fleet

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/control"
)

// numberedBeat is one of boot A, with so many events after what was confirmed.
func numberedBeat(kind string, seq, acked uint64, events ...uint64) heartbeat {
	b := heartbeat{kind: kind, host: "web-1", boot: "A", seq: seq, ttl: 8 * time.Second, fields: []any{"schema", 1, "boot", "A", "seq", seq}, load: "1", acked: acked}
	for _, e := range events {
		b.events = append(b.events, control.Event{Seq: e, Time: time.Now(), Type: control.EventReady})
	}
	return b
}

func (w *conn) must(t *testing.T, b heartbeat) answer {
	t.Helper()
	a, err := w.send(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// seqs are those of the events in the stream.
func (w *conn) seqs(ctx context.Context) string {
	var list []string
	for _, m := range w.client.XRange(ctx, "forkd:{shop}:events", "-", "+").Val() {
		list = append(list, fmt.Sprint(m.Values["seq"]))
	}
	return strings.Join(list, " ")
}

// A beat that arrives after a later one, or after its host has left, does nothing.
func TestLateBeat(t *testing.T) {
	t.Parallel()
	w := wired(t, redisServer(t))
	ctx := t.Context()
	w.must(t, numberedBeat(heartbeatReport, 2, 0, 1))
	if a := w.must(t, numberedBeat(heartbeatReport, 1, 0)); a.newer != 2 {
		t.Errorf("%+v", a)
	}
	if got := w.client.HGet(ctx, "forkd:{shop}:host:web-1", "seq").Val(); got != "2" {
		t.Errorf("seq %s", got)
	}
	if a := w.must(t, numberedBeat(heartbeatEvents, 3, 1, 2)); a.newer != 0 {
		t.Errorf("%+v", a)
	}
	w.must(t, numberedBeat(heartbeatLeave, 5, 2, 3))
	for _, late := range []heartbeat{numberedBeat(heartbeatReport, 4, 1, 2), numberedBeat(heartbeatEvents, 3, 1, 2, 3), numberedBeat(heartbeatLeave, 5, 2, 3)} {
		late.uncertain = true
		if a := w.must(t, late); a.newer != 5 || len(a.commands) != 0 {
			t.Errorf("%s %d: %+v", late.kind, late.seq, a)
		}
	}
	if keys := w.client.Keys(ctx, "*").Val(); len(keys) != 2 || w.seqs(ctx) != "1 2 3" {
		t.Errorf("%q, events %s", keys, w.seqs(ctx))
	}
	if left := w.client.PTTL(ctx, "forkd:{shop}:left:web-1").Val(); left <= 8*time.Second || left > minForgetAt {
		t.Errorf("that it has left is known for %s", left)
	}
	// The reporter after it, in the same life, goes on from there.
	if a := w.must(t, numberedBeat(heartbeatReport, 6, 0, 1, 2, 3, 4)); a.newer != 0 || a.last != 4 || w.seqs(ctx) != "1 2 3 4" {
		t.Errorf("%+v, events %s", a, w.seqs(ctx))
	}
	// Nobody's numbers stop a report.
	for _, wild := range []string{"1e300", "inf", "nan", "-1", "99999999999999999999", "x"} {
		w.client.HSet(ctx, "forkd:{shop}:host:web-1", "seq", wild, "event_seq", wild)
		if a := w.must(t, numberedBeat(heartbeatReport, 7, 4)); a.newer != 0 || a.last != 4 {
			t.Errorf("%s: %+v", wild, a)
		}
	}
	w.client.Set(ctx, "forkd:{shop}:left:web-1", "no hash", 0)
	if a := w.must(t, numberedBeat(heartbeatLeave, 8, 4)); a.newer != 0 || a.problem != "" {
		t.Errorf("%+v", a)
	}
}

// held keeps back the next script that is sent, and hands it to a channel.
type held struct {
	net.Conn

	mu   *sync.Mutex
	next *bool
	got  *[]byte
}

func (h *held) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if *h.next && strings.Contains(strings.ToLower(string(b)), "eval") {
		*h.next, *h.got = false, append([]byte(nil), b...)
		return len(b), nil
	}
	return h.Conn.Write(b)
}

// Bytes that were under way when the reporter gave up, and arrive when the host has
// left, do not bring it back.
func TestLateBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var mu sync.Mutex
		var next bool
		var got []byte
		w.setWay(func(conn net.Conn) (net.Conn, error) { return &held{conn, &mu, &next, &got}, nil })
		w.app.happen(1)
		r := w.start(w.settings(), "boot", w.app)
		after(time.Second)
		mu.Lock()
		next = true
		mu.Unlock()
		w.app.happen(1)
		after(500 * time.Millisecond)
		r.Close(t.Context(), true)
		if got == nil {
			t.Fatal("nothing was held back")
		}
		conn, err := w.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(append([]byte("AUTH hunter2\r\n"), got...)); err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		if w.Exists("forkd:{shop}:host:web-1") || w.Exists("forkd:{shop}:hosts") {
			t.Error("it is back")
		}
		if diff := cmp.Diff(numbered("boot", 2), w.stream()); diff != "" {
			t.Error(diff)
		}
	})
}

// A reporter that follows another in the same life of a master, as after other
// settings, goes on: neither its report nor its events are taken for late ones, nor
// is anything told twice.
func TestReporterAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.app.happen(3)
		for _, leave := range []bool{true, false, true} {
			r := w.start(w.settings(), "boot", w.app)
			after(7 * time.Second)
			if got := r.Health(); got.State != control.RedisUp || got.Twin || w.field("boot") != "boot" {
				t.Fatalf("%+v", got)
			}
			r.Close(t.Context(), leave)
			w.app.happen(1)
		}
		if diff := cmp.Diff(numbered("boot", 5), w.stream()); diff != "" {
			t.Error(diff)
		}
		if w.Exists("forkd:{shop}:host:web-1") {
			t.Error("it has not left")
		}
	})
}

// A host leaves a Redis that is full.
func TestLeaveFullRedis(t *testing.T) {
	t.Parallel()
	w := wired(t, redisServer(t))
	ctx := t.Context()
	w.must(t, numberedBeat(heartbeatReport, 1, 0, 1))
	if err := w.client.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	w.must(t, numberedBeat(heartbeatLeave, 2, 1, 2))
	if w.client.Exists(ctx, "forkd:{shop}:hosts", "forkd:{shop}:load", "forkd:{shop}:host:web-1").Val() != 0 {
		t.Error("it has not left")
	}
	// Nor does a stream that is none keep it.
	if err := w.client.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	w.must(t, numberedBeat(heartbeatReport, 3, 2))
	w.client.Set(ctx, "forkd:{shop}:events", "no stream", 0)
	if a := w.must(t, numberedBeat(heartbeatLeave, 4, 2, 3)); !strings.Contains(a.problem, "WRONGTYPE") || w.client.Exists(ctx, "forkd:{shop}:host:web-1").Val() != 0 {
		t.Errorf("%+v", a)
	}
}

// The beats of a master's first reporter are certain: nothing was sent before them,
// and the stream is not searched. Where it is, it is not far.
func TestSearchIsShort(t *testing.T) {
	for age, want := range map[time.Duration]string{0: "", 8 * time.Second: "1"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			var mu sync.Mutex
			next, got := true, []byte(nil)
			w.setWay(func(conn net.Conn) (net.Conn, error) { return &held{conn, &mu, &next, &got}, nil })
			r, err := start(w.settings(), App{Name: "shop", Boot: "b", StartedAt: time.Now().Add(-age)}, w.app, slog.New(slog.DiscardHandler), func(control.Redis) {}, w.dial)
			if err != nil {
				t.Fatal(err)
			}
			after(500 * time.Millisecond)
			r.Close(t.Context(), false)
			// The argument after the channel.
			_, rest, found := strings.Cut(string(got), "$20\r\nforkd:{shop}:changed\r\n")
			if uncertain := strings.HasPrefix(rest, "$1\r\n1\r\n"); !found || uncertain != (want == "1") {
				t.Errorf("%s: %q", age, rest[:min(len(rest), 40)])
			}
		})
	}
	w := wired(t, redisServer(t))
	ctx := t.Context()
	for behind, want := range map[int]uint64{99: 1, 100: 2} { // entries after ours: found, and not found, so appended again
		w.client.FlushAll(ctx)
		_, err := w.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.XAdd(ctx, &redis.XAddArgs{Stream: "forkd:{shop}:events", Values: []any{"seq", 1, "host", "web-1", "boot", "A"}})
			for range behind {
				p.XAdd(ctx, &redis.XAddArgs{Stream: "forkd:{shop}:events", Values: []any{"seq", 1, "host", "web-2", "boot", "b"}})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		b := numberedBeat(heartbeatReport, 1, 0, 1)
		b.uncertain = true
		w.must(t, b)
		if got := w.client.XLen(ctx, "forkd:{shop}:events").Val() - int64(behind); got != int64(want) {
			t.Errorf("%d entries behind: ours is there %d times", behind, got)
		}
	}
}

// What a failover has lost after it was confirmed is sent again, also when the
// failover takes longer than the report lives.
func TestLostInLongFailover(t *testing.T) {
	t.Parallel()
	for _, uncertain := range []bool{false, true} {
		w := wired(t, redisServer(t))
		ctx := t.Context()
		w.must(t, numberedBeat(heartbeatReport, 1, 0, 1))
		w.client.Del(ctx, "forkd:{shop}:host:web-1") // it has expired
		b := numberedBeat(heartbeatReport, 9, 3, 4)
		b.uncertain = uncertain
		if a := w.must(t, b); a.last != 1 || w.seqs(ctx) != "1" {
			t.Errorf("%+v, events %s", a, w.seqs(ctx))
		}
		if a := w.must(t, numberedBeat(heartbeatReport, 10, 1, 2, 3, 4)); a.last != 4 || w.seqs(ctx) != "1 2 3 4" {
			t.Errorf("%+v, events %s", a, w.seqs(ctx))
		}
		// A host that has left, and a Redis that has lost all.
		w.must(t, numberedBeat(heartbeatLeave, 11, 4))
		w.client.HSet(ctx, "forkd:{shop}:left:web-1", "event_seq", 2)
		if a := w.must(t, numberedBeat(heartbeatReport, 12, 4)); a.last != 2 {
			t.Errorf("%+v", a)
		}
		w.client.FlushAll(ctx)
		if a := w.must(t, numberedBeat(heartbeatReport, 13, 4, 5)); a.last != 5 || w.seqs(ctx) != "5" {
			t.Errorf("%+v, events %s", a, w.seqs(ctx))
		}
	}
}

// A fleet whose last host loses its power is gone some day, with all it has made
// but the stream: not before any of its hosts is.
func TestAllExpires(t *testing.T) {
	t.Parallel()
	w := wired(t, redisServer(t))
	ctx := t.Context()
	slow, fast := numberedBeat(heartbeatReport, 1, 0), numberedBeat(heartbeatReport, 1, 0, 1)
	slow.ttl, fast.host = time.Hour, "web-2"
	w.must(t, slow)
	w.must(t, fast)
	if err := w.register(ctx, time.Now(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := w.register(ctx, time.Now(), time.Second); err != nil {
		t.Fatal(err)
	}
	for key, most := range map[string]time.Duration{"forkd:{shop}:hosts": 10 * time.Hour, "forkd:{shop}:load": 10 * time.Hour, appsKey: 20 * time.Hour} {
		if left := w.client.PTTL(ctx, key).Val(); left <= most*9/10 || left > most {
			t.Errorf("%s lives for %s", key, left)
		}
	}
	if left := w.client.PTTL(ctx, "forkd:{shop}:events").Val(); left >= 0 {
		t.Errorf("the stream lives for %s", left)
	}
}

// The app is listed until the last of its hosts says, not until the one that says
// the most.
func TestRegisterIsZAdd(t *testing.T) {
	t.Parallel()
	w := wired(t, redisServer(t))
	now := time.Now()
	for _, ttl := range []time.Duration{time.Hour, time.Minute} {
		if err := w.register(t.Context(), now, ttl); err != nil {
			t.Fatal(err)
		}
		if got := w.client.ZScore(t.Context(), appsKey, "shop").Val(); int64(got) != now.Add(ttl).UnixMilli() {
			t.Errorf("%f", got)
		}
	}
}

// A twin that leaves has nothing to take away: what is there is the other's.
func TestTwinLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.settings(), "a", newApp(2))
		b := w.start(w.settings(), "b", newApp(2))
		after(5 * time.Second)
		if !b.Health().Twin {
			t.Fatalf("%+v", b.Health())
		}
		for w.field("boot") != "b" { // its own report is there, and goes on to be
			after(10 * time.Millisecond)
		}
		b.Close(t.Context(), true)
		if !w.Exists("forkd:{shop}:host:web-1") || !w.Exists("forkd:{shop}:hosts") {
			t.Error("the other is gone")
		}
		if got := w.HGet("forkd:{shop}:left:web-1", "boot"); got != "b" {
			t.Errorf("it was %q that left", got)
		}
	})
}

// An answer that says more events than there are is none.
func TestAnswerBeyond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.setWay(says("*5\r\n$1\r\n1\r\n$0\r\n\r\n$1\r\n9\r\n$0\r\n\r\n$1\r\n0\r\n"))
		client, err := dialThrough(t.Context(), Settings{URL: "redis://there"}, false, w.dial)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		b := numberedBeat(heartbeatReport, 1, 3)
		b.newest = 8
		if a, err := newConn(client, "shop").send(t.Context(), b); err == nil {
			t.Errorf("%+v", a)
		}
	})
}
