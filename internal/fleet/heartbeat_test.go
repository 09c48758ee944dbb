package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/control"
)

func TestColumns(t *testing.T) {
	slots := []control.Slot{
		{Slot: 0, State: control.StateReady, Workers: []control.Worker{
			{PID: 7, Generation: 1, State: control.StateDraining, Connections: new(int64(3)), CPUPercent: new(100.0)},
			{PID: 8, Generation: 2, State: control.StateReady, Queue: new(int64(1)), CPUPercent: new(0.04)},
		}},
		{Slot: 1, State: "backoff", Restarts: 4},
	}
	want := `{"slot":[0,0,1],"pid":[7,8,null],"generation":[1,2,null],"state":["draining","ready","backoff"],"connections":[3,null,null],"accepted":[null,null,null],` +
		`"requests":[null,null,null],"queue":[null,1,null],"cpu_percent":[100,0,null],"rss_bytes":[null,null,null],"restarts":[0,0,4]}`
	if diff := cmp.Diff(want, string(appendColumns(nil, slots))); diff != "" {
		t.Error(diff)
	}
	if got := string(appendColumns(nil, nil)); !json.Valid([]byte(got)) || !strings.Contains(got, `"slot":[]`) {
		t.Error(got)
	}
	big := appendColumns(nil, newApp(64).app.Slots)
	if !json.Valid(big) || len(big) >= 5000 {
		t.Errorf("64 workers are %d bytes", len(big))
	}
}

func TestParseAnswer(t *testing.T) {
	got, err := parseAnswer([]any{"1795244400000", "boot", "7", "", "3", "order"})
	if err != nil || !got.now.Equal(time.UnixMilli(1795244400000)) || got.before != "boot" || got.last != 7 || got.newer != 3 || len(got.commands) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, list := range [][]any{{}, {"1", "b", "7"}, {"1", "b", "7", ""}, {"x", "b", "7", "", "0"}, {"1", "b", "-7", "", "0"}, {"1", "b", "7", "", ""}, {"1", "b", "7", nil, "0"}, {"1", "b", "7", "", "0", []any{}}, {int64(1), "b", "7", "", "0"}} {
		if a, err := parseAnswer(list); err == nil {
			t.Errorf("%v is taken: %+v", list, a)
		}
	}
}

func TestReasonsAreCut(t *testing.T) {
	if got := cut("äöü", 3); got != "ä" {
		t.Error(got)
	}
	for _, v := range appendEvent(nil, "h", "b", control.Event{Reason: strings.Repeat("ä", 5000)}) {
		if s, ok := v.(string); ok && len(s) > maxReason {
			t.Errorf("%d bytes", len(s))
		}
	}
}

// redisServer starts a redis-server on a unix socket and returns its URL.
func redisServer(tb testing.TB) string {
	tb.Helper()
	socket := filepath.Join(tb.TempDir(), "s")
	cmd := exec.CommandContext(context.Background(), "redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", filepath.Dir(socket))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("cannot start redis-server: %v: test/install installs it", err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		conn, err := (&net.Dialer{}).DialContext(context.Background(), "unix", socket)
		if err == nil {
			_ = conn.Close()
			return "unix://" + socket
		}
		if time.Now().After(deadline) {
			tb.Fatal("redis-server does not listen")
		}
	}
}

func wired(tb testing.TB, url string) *conn {
	tb.Helper()
	client, err := dial(Settings{URL: url}, false)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = client.Close() })
	return newConn(client, "shop")
}

// What miniredis makes of the script is checked by the tests of the reporter; this
// is what Redis makes of it.
func TestBeatOnRedis(t *testing.T) {
	w := wired(t, redisServer(t))
	ctx := t.Context()
	b := heartbeat{kind: heartbeatReport, host: "web-1", boot: "a", ttl: 8 * time.Second, fields: []any{"host", "web-1", "boot", "a"}, load: "12", changed: true, commands: true}
	for i := range 70 {
		b.events = append(b.events, control.Event{Seq: uint64(i + 1), Time: time.Now(), Type: control.EventReady})
	}
	for i, key := range []string{"old", "late"} {
		at := time.Now().Add(-time.Second - time.Hour*time.Duration(1-i))
		for _, list := range []string{"hosts", "load"} {
			if err := w.client.ZAdd(ctx, "forkd:{shop}:"+list, redis.Z{Score: float64(at.UnixMilli()), Member: key}).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.client.RPush(ctx, "forkd:{shop}:cmd:web-1", "one", "two", strings.Repeat("x", 5000)).Err(); err != nil {
		t.Fatal(err)
	}
	first, err := w.send(ctx, b)
	if err != nil || first.before != "" || first.last != 70 || !strings.Contains(first.problem, "5000 bytes") {
		t.Fatalf("%+v, %v", first, err)
	}
	if diff := cmp.Diff([]string{"one", "two"}, first.commands); diff != "" {
		t.Error(diff)
	}
	if off := time.Since(first.now); off < -time.Second || off > time.Minute {
		t.Errorf("Redis's clock is %s off", off)
	}
	b.done = first.commands
	b.events = append(b.events[60:], control.Event{Seq: 71, Time: time.Now(), Type: control.EventExited, PID: new(7)})
	second, err := w.send(ctx, b)
	if err != nil || second.before != "a" || second.last != 71 || second.problem != "" || len(second.commands) != 0 {
		t.Errorf("%+v, %v", second, err)
	}
	if n := w.client.XLen(ctx, "forkd:{shop}:events").Val(); n != 71 {
		t.Errorf("%d events", n)
	}
	if diff := cmp.Diff([]string{"late", "web-1"}, w.client.ZRange(ctx, "forkd:{shop}:hosts", 0, -1).Val()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]redis.Z{{Score: 12, Member: "web-1"}}, w.client.ZRangeWithScores(ctx, "forkd:{shop}:load", 0, -1).Val()); diff != "" {
		t.Error(diff)
	}
	if ttl := w.client.PTTL(ctx, "forkd:{shop}:host:web-1").Val(); ttl <= 0 || ttl > 8*time.Second {
		t.Errorf("the hash lives for %s", ttl)
	}
	if at := w.client.HGet(ctx, "forkd:{shop}:host:web-1", "updated_at").Val(); at != fmt.Sprint(second.now.UnixMilli()) {
		t.Errorf("updated at %s", at)
	}
	if err := w.register(ctx, second.now, b.ttl); err != nil {
		t.Error(err)
	}
	// Another master's host stays when this one leaves; its own does not.
	other := b
	other.boot, other.events, other.kind = "b", nil, heartbeatLeave
	if a, err := w.send(ctx, other); err != nil || a.before != "a" || !w.there(ctx) {
		t.Errorf("%+v, %v", a, err)
	}
	b.kind, b.events = heartbeatLeave, nil
	if a, err := w.send(ctx, b); err != nil || w.there(ctx) {
		t.Errorf("%+v, %v", a, err)
	}
}

func (w *conn) there(ctx context.Context) bool {
	return w.client.Exists(ctx, "forkd:{shop}:host:web-1", "forkd:{shop}:load").Val() > 0
}

// A full Redis takes the whole of a beat or nothing.
func TestBeatOnFullRedis(t *testing.T) {
	w := wired(t, redisServer(t))
	ctx := t.Context()
	b := heartbeat{kind: heartbeatReport, host: "web-1", boot: "a", ttl: 8 * time.Second, fields: []any{"boot", "a"}, load: "1"}
	if _, err := w.send(ctx, b); err != nil {
		t.Fatal(err)
	}
	if err := w.client.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	b.fields, b.events = []any{"boot", "b"}, []control.Event{{Seq: 1}}
	if a, err := w.send(ctx, b); err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("%+v, %v", a, err)
	}
	if got := w.client.HGet(ctx, "forkd:{shop}:host:web-1", "boot").Val(); got != "a" || w.client.Exists(ctx, "forkd:{shop}:events").Val() != 0 {
		t.Error("half of a beat has arrived")
	}
}

// What Redis answers to go-redis at a connect, and all of its commands, are within
// the limits.
func TestGuardOnRedis(t *testing.T) {
	w := wired(t, redisServer(t))
	for _, command := range [][]any{{"COMMAND"}, {"COMMAND", "DOCS"}, {"INFO", "everything"}, {"CONFIG", "GET", "*"}} {
		if err := w.client.Do(t.Context(), command...).Err(); err != nil {
			t.Errorf("%v: %v", command, err)
		}
	}
}

func TestBeatIsSmall(t *testing.T) {
	app, _ := newApp(64).Status(t.Context())
	s := Settings{ConnectionLimit: 100000}
	b := heartbeat{
		kind: heartbeatReport, host: "web-1", boot: "0123456789abcdef", ttl: 8 * time.Second, load: loadOf(s, app), changed: true,
		fields: hostFields(s, "web-1", App{Boot: "0123456789abcdef"}, app, 1000, ""),
	}
	size := 180 // EVALSHA, its digest and the keys
	for _, a := range b.args("forkd:{shop}:changed") {
		text := fmt.Sprint(a)
		if list, ok := a.([]byte); ok {
			text = string(list)
		}
		size += len(fmt.Sprintf("$%d\r\n%s\r\n", len(text), text))
	}
	if size >= 5<<10 {
		t.Errorf("a beat of 64 workers is %d bytes", size)
	}
}
