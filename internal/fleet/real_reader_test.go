package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

func open(t testing.TB, s fleet.Settings) *fleet.Reader {
	t.Helper()
	r, err := fleet.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// bounded is a context that a test which hangs runs into.
func bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func look(t testing.TB, r *fleet.Reader) fleet.Fleet {
	t.Helper()
	f, err := r.Fleet(bounded(t), "shop", true)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// glimpse is a fleet in a line for each host.
func glimpse(f fleet.Fleet) []string {
	var lines []string
	for _, h := range f.Hosts {
		line := h.ID + " " + h.State
		if h.Connections != nil {
			line += fmt.Sprintf(" %d", *h.Connections)
		}
		for mark, is := range map[string]bool{"stale": h.Stale, "vanished": h.Vanished, "twin": h.Twin != "", "problem": h.Problem != ""} {
			if is {
				line += " " + mark
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// What hosts report is what is read, by a user who may do no more than the
// document says; another one may send commands too.
func TestRealReader(t *testing.T) {
	t.Parallel()
	_, rights := leastPrivilege(t)
	_, operator, _ := strings.Cut(fleetDocument(t), "    user forkd-operator ")
	operator, _, _ = strings.Cut(operator, "\n")
	s := start(t, options{config: []string{allowed(rights, ""), allowed("user forkd-operator "+operator, "")}})
	url := "redis://" + s.address
	a := newApp("b1", 3)
	a.happen("up", "")
	reports := []*report{
		startReport(t, a, fleet.Settings{URL: url, ConnectionLimit: 60, Control: true, Advertise: []string{"http://web-1"}}),
		startReport(t, newApp("b2", 2), fleet.Settings{URL: url, HostID: "web-2", ConnectionLimit: 60}),
	}
	for _, r := range reports {
		r.seen(t, s)
	}
	reader := open(t, fleet.Settings{URL: url, Username: "forkd-reader", PasswordFile: secret(t)})
	f := look(t, reader)
	if diff := cmp.Diff([]string{"web-1 ready 30", "web-2 ready 20"}, glimpse(f)); diff != "" {
		t.Error(diff)
	}
	if w := f.Hosts[0].Workers; len(w) != 3 || *w[2].PID != 5002 || *w[2].Connections != 10 {
		t.Errorf("workers: %+v", w)
	}
	if got := f.Hosts[0].Addresses; !slices.Equal(got, []string{"http://web-1"}) {
		t.Errorf("addresses: %q", got)
	}
	if got := f.Totals; *got.Connections != 50 || *got.Capacity != 120 || got.Serving != 2 || got.Ready != 5 {
		t.Errorf("totals: %+v", got)
	}
	until(t, "the app in the list", func() error {
		if apps, err := reader.Apps(bounded(t)); err != nil || !slices.Equal(apps, []string{"shop"}) {
			return fmt.Errorf("%q, %v", apps, err)
		}
		return nil
	})

	// A command is followed to its answer.
	boss := open(t, fleet.Settings{URL: url, Username: "forkd-operator", PasswordFile: secret(t)})
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	var types []string
	send := sync.OnceValue(func() error {
		return boss.Send(ctx, "shop", "web-1", fleet.Command{Command: control.Command{ID: "c1", Op: control.OpScale, Args: control.Args{Workers: "+1"}}, ExpiresAt: time.UnixMilli(s.now()).Add(time.Minute)})
	})
	done := errors.New("answered")
	err := boss.Events(ctx, "shop", "", true, func(e fleet.Entry) error {
		types = append(types, e.Type)
		if e.Command == "c1" {
			return done
		}
		return send()
	})
	if !errors.Is(err, done) || !slices.Equal(types, []string{"up", "scaled"}) {
		t.Errorf("%q, %v", types, err)
	}
	// The reader may not.
	if err := reader.Send(ctx, "shop", "web-1", fleet.Command{Command: control.Command{ID: "c2", Op: control.OpDrain}, ExpiresAt: time.Now().Add(time.Minute)}); err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("a reader sends a command: %v", err)
	}
	if got := a.obeyed(); !slices.Equal(got, []string{"c1"}) {
		t.Errorf("obeyed: %q", got)
	}
	for _, entry := range s.do("ACL", "LOG").([]any) {
		refused := pairs(t, entry)
		if object := fmt.Sprint(refused["object"]); !strings.HasPrefix(object, "eval") {
			t.Errorf("refused: %v", refused)
		}
	}
}

// A host that says nothing any more is stale, then vanished; one that has left is
// not there.
func TestRealSilence(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	reader := open(t, fleet.Settings{URL: "redis://" + s.address})
	settings := fleet.Settings{URL: "redis://" + s.address, Interval: 100 * time.Millisecond, TTL: 4 * time.Second}
	lost := startReport(t, newApp("b1", 1), settings)
	settings.HostID = "web-2"
	left := startReport(t, newApp("b2", 1), settings)
	settings.HostID = "web-3"
	startReport(t, newApp("b3", 1), settings)
	shows := func(want ...string) {
		t.Helper()
		until(t, "a fleet", func() error {
			if diff := cmp.Diff(want, glimpse(look(t, reader))); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
	}
	shows("web-1 ready 10", "web-2 ready 10", "web-3 ready 10")
	left.leave(t)
	lost.Close(bounded(t), false)
	shows("web-1 ready 10 stale", "web-3 ready 10")
	shows("web-1  vanished", "web-3 ready 10")
	if f := look(t, reader); f.Totals.Vanished != 1 || *f.Totals.Connections != 10 {
		t.Errorf("totals: %+v", f.Totals)
	}
}

// What others have written is said to be wrong, and the rest is shown.
func TestRealHostileValues(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	r := startReport(t, newApp("b1", 1), fleet.Settings{URL: "redis://" + s.address})
	r.seen(t, s)
	year := fmt.Sprint(s.now() + 365*24*time.Hour.Milliseconds())
	for id, values := range map[string][]string{
		"h-schema":  {"schema", "2"},
		"h-numbers": {"schema", "1", "connections", "-3", "capacity", "1e9", "ready", "99999999999999999999"},
		"h-columns": {"schema", "1", "workers", `{"slot":[0,1],"pid":[1]}`},
		"h-huge":    {"schema", "1", "version", strings.Repeat("x", 20<<20)},
		"h-clock":   {"schema", "1", "updated_at", year, "started_at", year},
		"h-escape":  {"schema", "1", "state", "\x1b[2J\x07"},
		"\x1b[31mh": {"schema", "1"},
	} {
		s.do("ZADD", "forkd:{shop}:hosts", "+inf", id)
		s.do(append([]string{"HSET", "forkd:{shop}:host:" + id}, values...)...)
	}
	s.do("ZADD", "forkd:{shop}:hosts", "+inf", "h-string")
	s.do("SET", "forkd:{shop}:host:h-string", "hello")
	f := look(t, open(t, fleet.Settings{URL: "redis://" + s.address}))
	if len(f.Hosts) != 9 || f.Totals.Problems != 8 || *f.Totals.Connections != 10 {
		t.Errorf("%q, totals %+v", glimpse(f), f.Totals)
	}
	for _, h := range f.Hosts {
		if (h.Problem == "") != (h.ID == "web-1") || strings.ContainsFunc(h.Problem, func(c rune) bool { return c < ' ' }) {
			t.Errorf("%q: problem %q", h.ID, h.Problem)
		}
	}
}

// A reader says what is wrong with Redis, in time.
func TestRealReaderWithoutRedis(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	gone := start(t, options{})
	gone.end()
	still := start(t, options{})
	still.pause()
	for url, says := range map[string]string{
		"redis://" + web.Listener.Addr().String(): "does not speak Redis's protocol",
		"redis://" + gone.address:                 "refused",
		"redis://" + still.address:                "",
	} {
		limit := patience
		if says == "" {
			limit = 2 * time.Second
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		began := time.Now()
		_, err := open(t, fleet.Settings{URL: url}).Fleet(ctx, "shop", false)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", url, err)
		}
		if took := time.Since(began); took > patience/2 {
			t.Errorf("%s: it took %v of %v", url, took, limit)
		}
		cancel()
	}
}

// Followers of events go on over a restart of Redis, and have each once.
func TestRealFollowing(t *testing.T) {
	t.Parallel()
	s := start(t, options{config: []string{"appendonly yes", "appendfsync always"}})
	a := newApp("b1", 1)
	r := startReport(t, a, fleet.Settings{URL: "redis://" + s.address})
	r.seen(t, s)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	got := make(chan uint64, 100)
	failed := make(chan error, 1)
	reader := open(t, fleet.Settings{URL: "redis://" + s.address})
	go func() {
		failed <- reader.Events(ctx, "shop", "", true, func(e fleet.Entry) error {
			got <- e.Seq
			return nil
		})
	}()
	expect := func(from, to uint64) {
		t.Helper()
		for want := from; want <= to; want++ {
			select {
			case seq := <-got:
				if seq != want {
					t.Fatalf("event %d, not %d", seq, want)
				}
			case err := <-failed:
				t.Fatal(err)
			case <-ctx.Done():
				t.Fatalf("event %d has not come", want)
			}
		}
	}
	happen := func(n int) {
		for range n {
			a.happen("ready", "")
		}
	}
	happen(20)
	expect(1, 20)
	s.end()
	happen(20)
	r.is(t, control.RedisDown)
	s.again()
	expect(21, 40)
	happen(1)
	expect(41, 41)
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}

// Rows of workers take far more memory than in Redis: of all hosts together, so many are
// read.
func TestRealManyRows(t *testing.T) { // not beside others: it is most of a slow machine
	s := start(t, options{})
	const hosts, rows = 300, 4096
	workers := `{"slot":[` + strings.Repeat("0,", rows-1) + `0],"state":[` + strings.Repeat(`"",`, rows-1) + `""]}`
	now := fmt.Sprint(s.now())
	for i := range hosts {
		id := fmt.Sprint("web-", i)
		s.do("ZADD", "forkd:{shop}:hosts", "inf", id)
		s.do("HSET", "forkd:{shop}:host:"+id, "schema", "1", "host", id, "state", "ready", "updated_at", now, "workers", workers)
	}
	f := look(t, open(t, fleet.Settings{URL: "redis://" + s.address}))
	total, none := 0, 0
	for _, h := range f.Hosts {
		if total += len(h.Workers); h.Workers == nil {
			none++
		}
		if h.Problem != "" || h.State != "ready" {
			t.Fatalf("%+v", h)
		}
	}
	const most = 1 << 20
	if total < most || total > most+8*rows || none != hosts-total/rows || f.Problem != "its hosts report more than 1048576 workers: those of some hosts are not read" {
		t.Errorf("%d hosts, %d of them without workers, %d workers: %q", len(f.Hosts), none, total, f.Problem)
	}
}
