package fleet_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/redisconfig"
)

// A list of too many hosts is read as far as it makes sense, and said to be one.
func TestReaderTooMany(t *testing.T) { // not beside others: it is most of a slow machine
	s, at := filled(t, 3, 2)
	for i := range 6 { // each takes a moment, on a slow machine too
		s.do("EVAL", `for i = 1, 20000 do redis.call('ZADD', KEYS[1], i, 'fake-' .. ARGV[1] .. '-' .. i) end`, "1", "forkd:{shop}:hosts", fmt.Sprint(i))
	}
	f := look(t, open(t, at))
	if f.Problem != "the list has 120003 hosts: only the 100000 that expire last are read" {
		t.Errorf("problem %q", f.Problem)
	}
	if got := f.Totals; got.Hosts != 100_000 || got.Serving != 3 || got.Vanished != 99_997 || got.Ready != 6 {
		t.Errorf("%+v", got)
	}
}

// What is too large for one answer is read in several; what is too large for a
// host is said of it.
func TestReaderLarge(t *testing.T) { // not beside others: it is most of a slow machine
	s, at := filled(t, 2, 1)
	add := func(id string, bytes int) { // Redis makes the filler: it need not be sent
		s.do("EVAL", `redis.call('ZADD', KEYS[1], '9e12', ARGV[1])
			redis.call('HSET', KEYS[2], 'schema', 1, 'host', ARGV[1], 'state', 'ready', 'updated_at', ARGV[2], 'interval_ms', 600000, 'workers', string.format(ARGV[3], string.rep('x', ARGV[4])))`,
			"2", "forkd:{shop}:hosts", "forkd:{shop}:host:"+id, id, fmt.Sprint(s.now()), `{"slot":[0],"state":["ready"],"later":"%s"}`, fmt.Sprint(bytes))
	}
	for i := range 66 { // more than is taken at once
		add(fmt.Sprintf("large-%d", i), 1000<<10)
	}
	add("huge", 2000<<10)
	add("vast", 17<<20)
	s.do("ZADD", "forkd:{shop}:hosts", "9e12", "list")
	s.do("RPUSH", "forkd:{shop}:host:list", "x")
	f := look(t, open(t, at))
	if got := f.Totals; got.Hosts != 71 || got.Serving != 68 || got.Problems != 3 {
		t.Errorf("%+v", got)
	}
	for _, h := range f.Hosts {
		want := map[string]string{
			"huge": "workers has 2048041 bytes: at most 1048576 are read", "list": "what Redis has under its key is no hash",
			"vast": "its report is too large: a string of 17825833 bytes is not taken: 16777216 at most",
		}[h.ID]
		if h.Problem != want || want == "" && len(h.Workers) != 1 {
			t.Errorf("%s: %q, %d workers", h.ID, h.Problem, len(h.Workers))
		}
	}
}

// A host that leaves while it is read is not there; one that comes back is.
func TestReaderMeanwhile(t *testing.T) {
	t.Parallel()
	s, at := filled(t, 3, 1)
	p := startProxy(t, s)
	at.URL = p.url()
	reader := open(t, at)
	p.behave(func(command []string) fate {
		switch strings.ToUpper(command[0]) {
		case "HMGET":
			s.do("DEL", "forkd:{shop}:host:sim-00001", "forkd:{shop}:host:sim-00002")
			s.do("ZREM", "forkd:{shop}:hosts", "sim-00001")
		case "ZSCORE":
			s.do("ZADD", "forkd:{shop}:hosts", "9e12", "sim-00002")
			s.do("HSET", "forkd:{shop}:host:sim-00002", "schema", "1", "host", "sim-00002", "state", "draining", "updated_at", fmt.Sprint(s.now()))
			p.behave(func([]string) fate { return fate{} })
		}
		return fate{}
	})
	want := []string{"sim-00000 ready", "sim-00002 draining"}
	got := []string{}
	for _, h := range look(t, reader).Hosts {
		got = append(got, h.ID+" "+h.State)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestReaderOfNothing(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	r := open(t, fleet.Settings{URL: "redis://" + s.address})
	ctx := bounded(t)
	if apps, err := r.Apps(ctx); err != nil || len(apps) != 0 {
		t.Errorf("%q, %v", apps, err)
	}
	if f, err := r.Fleet(ctx, "shop", true); err != nil || f.Hosts == nil || len(f.Hosts) != 0 || f.At.IsZero() {
		t.Errorf("%+v, %v", f, err)
	}
	if err := r.Events(ctx, "shop", "", false, func(fleet.Entry) error { return errors.New("an event") }); err != nil {
		t.Error(err)
	}
	if _, err := r.Fleet(ctx, "sh}op", true); err == nil {
		t.Error("sh}op is the name of an app")
	}
	s.do("ZADD", "forkd:apps", "1", "old", "2", "\x1b[2J", "3", "new")
	if apps, err := r.Apps(ctx); err != nil || !slices.Equal(apps, []string{"new", "old"}) {
		t.Errorf("%q, %v", apps, err)
	}
	for _, key := range []string{"forkd:{shop}:hosts", "forkd:{shop}:events"} {
		s.do("SET", key, "hello")
	}
	if _, err := r.Fleet(ctx, "shop", false); err == nil || !strings.Contains(err.Error(), "forkd:{shop}:hosts: WRONGTYPE") {
		t.Error(err)
	}
	for _, follow := range []bool{false, true} {
		if err := r.Events(ctx, "shop", "", follow, nil); err == nil || !strings.Contains(err.Error(), "forkd:{shop}:events: WRONGTYPE") {
			t.Error(err)
		}
	}
	if _, err := fleet.Open(fleet.Settings{URL: "http://x"}); err == nil {
		t.Error("http://x is opened")
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	r := open(t, fleet.Settings{URL: "redis://" + s.address})
	s.do("EVAL", `for i = 1, 1203 do redis.call('XADD', KEYS[1], i .. '-0', 'seq', i, 'time', 1000 * i, 'host', 'web-1', 'boot', 'b', 'type', 'ready', 'slot', i % 4) end`,
		"1", "forkd:{shop}:events")
	read := func(after string) (seqs []uint64) {
		t.Helper()
		err := r.Events(bounded(t), "shop", after, false, func(e fleet.Entry) error {
			if e.ID != fmt.Sprintf("%d-0", e.Seq) || e.Boot != "b" || e.Host != "web-1" || *e.Slot != int(e.Seq%4) || !e.Time.Equal(time.Unix(int64(e.Seq), 0)) || e.PID != nil {
				t.Errorf("%+v", e)
			}
			seqs = append(seqs, e.Seq)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return seqs
	}
	for after, want := range map[string]int{"": 1203, "0-0": 1203, "3-0": 1200, "203-0": 1000, "203-1": 1000, "1202-9": 1, "1203-0": 0, "9999-0": 0} {
		got := read(after)
		if len(got) != want || want > 0 && (got[0] != uint64(1204-want) || got[want-1] != 1203) || !slices.IsSorted(got) {
			t.Errorf("after %q: %d events", after, len(got))
		}
	}
	enough := errors.New("enough")
	for _, follow := range []bool{false, true} {
		if err := r.Events(bounded(t), "shop", "", follow, func(fleet.Entry) error { return enough }); err != enough { //nolint:errorlint // it is returned as it is
			t.Error(err)
		}
	}
}

// A follower gets what there is, and then what comes.
func TestEventsFollow(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	r := open(t, fleet.Settings{URL: "redis://" + s.address})
	add := func(seq string) {
		s.do("XADD", "forkd:{shop}:events", "*", "seq", seq, "time", "1", "host", "web-1", "boot", "b", "type", "ready")
	}
	add("1")
	enough := errors.New("enough")
	done := make(chan error)
	var got []uint64
	go func() {
		done <- r.Events(bounded(t), "shop", "", true, func(e fleet.Entry) error {
			got = append(got, e.Seq)
			if e.Seq == 3 {
				return enough
			}
			return nil
		})
	}()
	until(t, "a follower that waits", func() error {
		if s.info("clients", "blocked_clients") != "1" {
			return errors.New("nobody waits")
		}
		return nil
	})
	add("2")
	add("3")
	if err := <-done; err != enough || !slices.Equal(got, []uint64{1, 2, 3}) { //nolint:errorlint // it is returned as it is
		t.Errorf("%d, %v", got, err)
	}
}

func TestEventsUnreadable(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	r := open(t, fleet.Settings{URL: "redis://" + s.address})
	var want []string
	add := func(says string, entry ...string) {
		want = append(want, says)
		s.do(append([]string{"XADD", "forkd:{shop}:events", fmt.Sprintf("%d-0", len(want))}, entry...)...)
	}
	add("its host is nothing", "hello", "world")
	add("it has no seq, time or type", "host", "web-1", "type", "up")
	add(`its seq "-1" is not a whole number from 0 to 2^53`, "seq", "-1", "type", "up", "time", "1", "host", "web-1")
	add(`its host is "\x1b[2J"`, "host", "\x1b[2J", "seq", "1", "type", "up", "time", "1")
	add(`its host is "a b"`, "host", "a b", "seq", "1", "type", "up", "time", "1")
	add(`its type is "\x1b]0;x\a"`, "type", "\x1b]0;x\a", "seq", "1", "time", "1", "host", "web-1")
	add(`its pid "1e9" is not a whole number from 0 to 2^53`, "pid", "1e9", "type", "up", "seq", "1", "time", "1", "host", "web-1")
	add("its time 9007199254740992 is none", "type", "up", "seq", "1", "time", "9007199254740992", "host", "web-1")
	add("", "type", "up", "seq", "1", "time", "1", "host", "web-1")
	i := 0
	err := r.Events(bounded(t), "shop", "", false, func(e fleet.Entry) error {
		bad := want[i] != ""
		if bad != (e.Type == fleet.EventUnreadable) || e.Reason != want[i] || e.ID != fmt.Sprintf("%d-0", i+1) {
			t.Errorf("%+v, not %q", e, want[i])
		}
		i++
		return nil
	})
	if err != nil || i != len(want) {
		t.Errorf("%d of %d, %v", i, len(want), err)
	}
}

func TestSend(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	r := open(t, fleet.Settings{URL: "redis://" + s.address, ReadFrom: redisconfig.FromReplica})
	ctx := bounded(t)
	soon := time.UnixMilli(s.now()).Add(30 * time.Second)
	good := fleet.Command{Command: control.Command{ID: "c1", Op: control.OpShed, Args: control.Args{Count: 5, Seconds: 20}}, ExpiresAt: soon}
	for range 64 {
		if err := r.Send(ctx, "shop", "web-1", good); err != nil {
			t.Fatal(err)
		}
	}
	const key = "forkd:{shop}:cmd:web-1"
	if got, want := s.do("LINDEX", key, "0"), fmt.Sprintf(`{"id":"c1","op":"shed","args":{"count":5,"seconds":20},"expires_at":%d}`, soon.UnixMilli()); got != want {
		t.Errorf("%v, not %s", got, want)
	}
	if left, _ := s.do("PTTL", key).(int64); left < 9*60_000 || left > 11*60_000 {
		t.Errorf("the list expires in %d ms", left)
	}
	if err := r.Send(ctx, "shop", "web-1", good); err == nil || err.Error() != "web-1 has 64 commands waiting, and takes none: is redis.control = true there?" {
		t.Error(err)
	}
	if err := r.Send(ctx, "shop", "web-2", good); err != nil {
		t.Error(err)
	}
	for what, bad := range map[string]struct {
		app, host string
		c         fleet.Command
	}{
		"app":   {"sh}op", "web-3", good},
		"host":  {"shop", "web 3", good},
		"id":    {"shop", "web-3", fleet.Command{Command: control.Command{ID: "a b", Op: "drain"}, ExpiresAt: soon}},
		"op":    {"shop", "web-3", fleet.Command{Command: control.Command{ID: "c", Op: "explode"}, ExpiresAt: soon}},
		"args":  {"shop", "web-3", fleet.Command{Command: control.Command{ID: "c", Op: "drain", Args: control.Args{Count: 1}}, ExpiresAt: soon}},
		"scale": {"shop", "web-3", fleet.Command{Command: control.Command{ID: "c", Op: "scale", Args: control.Args{Workers: "many"}}, ExpiresAt: soon}},
		"time":  {"shop", "web-3", fleet.Command{Command: control.Command{ID: "c", Op: "drain"}}},
	} {
		if err := r.Send(ctx, bad.app, bad.host, bad.c); err == nil {
			t.Errorf("%s: it is sent", what)
		}
	}
	if got := s.do("EXISTS", "forkd:{shop}:cmd:web-3"); got != int64(0) {
		t.Errorf("something is sent: %v", got)
	}
}
