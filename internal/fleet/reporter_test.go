package fleet

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/control"
)

// beats is how many there have been.
func (w *world) beats() int {
	n, _ := strconv.Atoi(w.field("seq"))
	return n
}

func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		w.app.happen(1)
		r := w.start(w.settings(), "boot", w.app)
		after(time.Second)
		h := r.Health()
		if h.State != control.RedisUp || h.Error != "" || h.URL != "redis://:***@there" || h.Host != "web-1" || h.Twin {
			t.Errorf("%+v", h)
		}
		ms := strconv.FormatInt(began.UnixMilli(), 10)
		for name, want := range map[string]string{
			"schema": "1", "host": "web-1", "boot": "boot", "seq": "1", "addresses": `["tcp://:8080"]`, "state": "ready", "version": "v1", "generation": "1",
			"wanted": "2", "ready": "2", "connections": "100", "capacity": "1000", "accepted": "2000001", "requests": "2469135", "refused": "0", "restarts": "1",
			"queue": "0", "cpu_percent": "24.6", "rss_bytes": "209715201", "started_at": ms, "updated_at": ms, "interval_ms": "2000", "event_boot": "boot", "event_seq": "1", "twin": "",
			"workers": `{"slot":[0,1],"pid":[1234567,1234568],"generation":[12,12],"state":["ready","ready"],"connections":[1500,1501],"accepted":[1000000,1000001],` +
				`"requests":[1234567,1234568],"queue":[0,0],"cpu_percent":[12.3,12.3],"rss_bytes":[104857600,104857601],"restarts":[0,1]}`,
		} {
			if got := w.field(name); got != want {
				t.Errorf("%s: %s, not %s", name, got, want)
			}
		}
		expires := float64(began.Add(8 * time.Second).UnixMilli())
		for key, want := range map[string]float64{"forkd:{shop}:hosts": expires, "forkd:{shop}:load": 1000} {
			if got, err := w.ZScore(key, "web-1"); err != nil || got != want {
				t.Errorf("%s: %v, %v", key, got, err)
			}
		}
		if got, err := w.ZScore("forkd:apps", "shop"); err != nil || got != expires+8000 { // ms: for two times to live
			t.Errorf("apps: %v, %v", got, err)
		}
		if left := w.TTL("forkd:{shop}:host:web-1"); left != 7*time.Second {
			t.Errorf("the hash lives for %s", left)
		}
		if diff := cmp.Diff(numbered("boot", 1), w.stream()); diff != "" {
			t.Error(diff)
		}
		// What is not known is left out, of the hash and of the load.
		w.app.change(func(g *snapshot) { g.Known, g.State = false, control.StateDraining })
		after(maxPollInterval + 2*turnInterval)
		if w.field("connections") != "" || w.field("state") != "draining" {
			t.Errorf("connections %q, state %q", w.field("connections"), w.field("state"))
		}
		if w.Exists("forkd:{shop}:load") {
			t.Error("a host with unknown connections has a load")
		}
	})
}

func TestCadence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		changed := w.NewSubscriber()
		defer changed.Close()
		changed.Subscribe("forkd:{shop}:changed")
		said := 0
		go func() {
			for range changed.Messages() {
				said++
			}
		}()
		w.start(w.settings(), "boot", w.app)
		after(time.Minute)
		if n := w.beats(); n < 27 || n > 33 || said != 1 {
			t.Errorf("%d beats in a minute of 2 s, and %d times something to look at", n, said)
		}
		w.app.mu.Lock()
		if w.app.longest > maxPollInterval+turnInterval {
			t.Errorf("no poll for %s", w.app.longest)
		}
		w.app.mu.Unlock()

		quick := func(what string, want bool, f func(*snapshot)) {
			t.Helper()
			after(100 * time.Millisecond)
			for before := w.beats(); w.beats() == before; { // right after a beat of its own
				after(100 * time.Millisecond)
			}
			before, told := w.beats(), said
			w.app.change(f)
			after(maxPollInterval + 2*turnInterval)
			if got := w.beats() > before; got != want || want && said != told+1 {
				t.Errorf("%s: beats at once: %v, told %d times", what, got, said-told)
			}
		}
		quick("5 % more", false, func(g *snapshot) { g.Connections = 105 })
		quick("6 % more", true, func(g *snapshot) { g.Connections = 112 })
		quick("fewer", true, func(g *snapshot) { g.Connections = 1 })
		quick("one of one", true, func(g *snapshot) { g.Connections = 0 })
		quick("one of none", true, func(g *snapshot) { g.Connections = 1 })
		quick("a state", true, func(g *snapshot) { g.State = control.StateDraining })
		quick("a generation", true, func(g *snapshot) { g.Generation++ })
		quick("ready", true, func(g *snapshot) { g.Ready-- })
		quick("nothing", false, func(*snapshot) {})

		// However restless it is, there are ten beats a second at most.
		before := w.beats()
		for range 1000 {
			w.app.change(func(g *snapshot) { g.Generation++ })
			after(10 * time.Millisecond)
		}
		if n := w.beats() - before; n < 18 || n > 101 {
			t.Errorf("%d beats in 10 s", n)
		}
	})
}

func TestEventsArriveOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.app.happen(200)
		r := w.start(w.settings(), "boot", w.app)
		after(time.Second)
		if diff := cmp.Diff(numbered("boot", 200), w.stream()); diff != "" {
			t.Error(diff)
		}
		w.app.happen(3)
		after(200 * time.Millisecond)
		if diff := cmp.Diff(numbered("boot", 203), w.stream()); diff != "" {
			t.Error(diff)
		}
		// The answer is lost: the connection ends when it comes.
		for round, outage := range []time.Duration{0, time.Minute} { // within the time to live of what says it, and beyond
			w.setWay(deaf)
			w.cut()
			w.app.happen(10)
			after(10 * time.Second)
			if r.Health().State != control.RedisDown {
				t.Fatalf("%+v", r.Health())
			}
			w.setWay(refused)
			after(outage)
			w.setWay(nil)
			after(10 * time.Second)
			if diff := cmp.Diff(numbered("boot", 203+10*(round+1)), w.stream()); diff != "" {
				t.Errorf("after an outage of %s: %s", outage, diff)
			}
		}
		// Another reporter of the same master goes on where this one was.
		r.Close(t.Context(), false)
		after(time.Minute)
		w.start(w.settings(), "boot", w.app)
		after(time.Second)
		if n := len(w.stream()); n != 223 {
			t.Errorf("%d events", n)
		}
		// A new master begins anew.
		again := newApp(1)
		again.happen(2)
		w.start(Settings{URL: "redis://there", HostID: "web-2"}, "next", again)
		after(time.Second)
		if diff := cmp.Diff(numbered("next", 2), w.stream()[223:]); diff != "" {
			t.Error(diff)
		}
	})
}

func TestDownAndUpAgain(t *testing.T) {
	for name, test := range map[string]struct {
		way  func(*world)
		says string
	}{
		"refused":          {func(w *world) { w.setWay(refused) }, "connection refused"},
		"hung":             {func(w *world) { w.setWay(hung) }, "no answer within 1s"},
		"a web server":     {func(w *world) { w.setWay(says("HTTP/1.1 400 Bad Request\r\n\r\n")) }, "does not speak Redis's protocol"},
		"lies":             {func(w *world) { w.setWay(says("$99999999999\r\n")) }, "99999999999 bytes"},
		"something else":   {func(w *world) { w.setWay(says("+OK\r\n")) }, ""},
		"read-only":        {func(w *world) { w.SetError("READONLY You can't write against a read only replica.") }, "READONLY"},
		"full":             {func(w *world) { w.SetError("OOM command not allowed when used memory > 'maxmemory'.") }, "OOM"},
		"quotes passwords": {func(w *world) { w.SetError("ERR unknown command `HELLO` `hunter2`") }, "`***`"},
		"closes":           {func(w *world) { w.setWay(deaf) }, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				test.way(w)
				began := time.Now()
				r := w.start(w.settings(), "boot", w.app)
				after(30 * time.Second)
				if h := r.Health(); h.State != control.RedisConnecting || !h.Since.Equal(began) || !strings.Contains(h.Error, test.says) || h.Error == "" {
					t.Errorf("before it was there: %+v", h)
				}
				w.setWay(nil)
				w.SetError("")
				after(5 * time.Second) // a try that hangs, and the longest pause
				if h := r.Health(); h.State != control.RedisUp || h.Error != "" {
					t.Fatalf("there: %+v", h)
				}
				at := time.Now()
				test.way(w)
				w.cut()
				w.app.happen(5)
				dials := len(w.dialed())
				after(10 * time.Minute)
				h := r.Health()
				if h.State != control.RedisDown || h.Since.Sub(at) > 10*time.Second || !strings.Contains(h.Error, test.says) || strings.Contains(h.Error, "hunter2") {
					t.Errorf("gone: %+v", h)
				}
				if n := len(w.dialed()) - dials; n > 450 || n < 150 {
					t.Errorf("%d tries in 10 minutes", n)
				}
				w.setWay(nil)
				w.SetError("")
				after(5 * time.Second) // a try that hangs, and the longest pause
				if h := r.Health(); h.State != control.RedisUp || h.Error != "" || w.field("workers") == "" || w.field("event_seq") != "5" {
					t.Errorf("back: %+v, events up to %s", h, w.field("event_seq"))
				}
				if log := w.log.String(); strings.Count(log, "\n") != 4 || strings.Contains(log, "hunter2") {
					t.Errorf("one line at each change:\n%s", log)
				}
				if w.app.longest > 4*time.Second {
					t.Errorf("no poll for %s", w.app.longest)
				}
			})
		})
	}
}

// A report that can't be made is down, and the status says why.
func TestUnreadableApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start(w.settings(), "boot", w.app)
		after(5 * time.Second)
		w.app.mu.Lock()
		w.app.unreadable = errors.New("its answer is too large")
		w.app.mu.Unlock()
		after(5 * time.Second)
		if h := r.Health(); h.State != control.RedisDown || !strings.Contains(h.Error, "its answer is too large") {
			t.Errorf("%+v", h)
		}
		w.app.mu.Lock()
		w.app.unreadable = nil
		w.app.mu.Unlock()
		after(15 * time.Second)
		if h := r.Health(); h.State != control.RedisUp || h.Error != "" {
			t.Errorf("%+v", h)
		}
	})
}

// An event that the reporter was not woken for is sent with the next poll.
func TestEventWithoutAWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.settings()
		s.Interval, s.TTL = time.Minute, 0
		w.start(s, "boot", w.app)
		after(5 * time.Second)
		w.app.mu.Lock()
		w.app.events = append(w.app.events, control.Event{Seq: uint64(len(w.app.events) + 1), Time: time.Now(), Host: "web-1", Type: control.EventCrashed})
		w.app.mu.Unlock()
		after(3 * time.Second)
		if seq := w.field("event_seq"); seq != "1" {
			t.Errorf("events up to %q", seq)
		}
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.setWay(refused)
		s := w.settings()
		s.Interval = time.Minute
		w.start(s, "boot", w.app)
		after(2 * time.Minute)
		dials := w.dialed()
		want := minBackoff
		for i := 1; i < len(dials); i++ {
			pause := dials[i].Sub(dials[i-1])
			if pause < want*8/10 || pause > want*12/10+turnInterval {
				t.Errorf("try %d comes after %s, not about %s", i, pause, want)
			}
			want = min(2*want, maxBackoff)
		}
		if len(dials) < 15 || len(dials) > 20 {
			t.Errorf("%d tries in 2 minutes", len(dials))
		}
	})
}

func TestTwins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		// A master that died without a word is no twin of its successor.
		dead := w.start(w.settings(), "dead", w.app)
		after(time.Second)
		dead.Close(t.Context(), false)
		a := w.start(w.settings(), "a", w.app)
		after(3 * time.Second)
		if a.Health().Twin {
			t.Fatalf("%+v", a.Health())
		}
		b := w.start(w.settings(), "b", newApp(1))
		after(10 * time.Second)
		for name, h := range map[string]control.Redis{"a": a.Health(), "b": b.Health()} {
			if !h.Twin || h.State != control.RedisUp || !strings.Contains(h.Error, "host web-1") || !strings.Contains(h.Error, "redis.host_id") {
				t.Errorf("%s: %+v", name, h)
			}
		}
		if boot, twin := w.field("boot"), w.field("twin"); boot == "" || twin == "" || boot == twin {
			t.Errorf("boot %q, twin %q", boot, twin)
		}
		b.Close(t.Context(), true)
		after(time.Second)
		if twin := w.field("twin"); w.field("boot") == "a" && twin != "b" {
			t.Errorf("twin %q right after its end", twin)
		}
		after(12 * time.Second)
		if h := a.Health(); h.Twin || h.Error != "" || w.field("twin") != "" || w.field("boot") != "a" {
			t.Errorf("%+v, twin %q", h, w.field("twin"))
		}
		if n := strings.Count(w.log.String(), "another master reports"); n != 2 {
			t.Errorf("said %d times", n)
		}
	})
}

func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start(w.settings(), "boot", w.app)
		after(time.Second)
		w.app.end()
		w.app.happen(130)
		r.Close(t.Context(), true)
		if diff := cmp.Diff(numbered("boot", 130), w.stream()); diff != "" {
			t.Error(diff)
		}
		for _, key := range []string{"forkd:{shop}:host:web-1", "forkd:{shop}:hosts", "forkd:{shop}:load"} {
			if w.Exists(key) {
				t.Errorf("%s is still there", key)
			}
		}
		r.Close(t.Context(), true) // does nothing

		// Without leave the host stays until it expires.
		r = w.start(w.settings(), "boot2", newApp(1))
		after(time.Second)
		r.Close(t.Context(), false)
		if w.field("boot") != "boot2" {
			t.Error("the host is gone at once")
		}
		after(9 * time.Second)
		if w.field("boot") != "" {
			t.Error("the host has not expired")
		}
	})
}

// Whatever Redis does, Close is over in time, and the source is never kept.
func TestCloseIsOverInTime(t *testing.T) {
	for _, leave := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.setWay(hung)
			r := w.start(w.settings(), "boot", w.app)
			after(50 * time.Millisecond) // in the middle of the first try
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			defer cancel()
			began := time.Now()
			r.Close(ctx, leave)
			most := time.Duration(0)
			if leave {
				most = 1500 * time.Millisecond
			}
			if took := time.Since(began); took > most {
				t.Errorf("leave %v: %s", leave, took)
			}
		})
	}
}

func TestOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		key := "forkd:{shop}:cmd:web-1"
		push := func(orders ...string) {
			if _, err := w.Push(key, orders...); err != nil {
				t.Fatal(err)
			}
		}
		r := w.start(w.settings(), "boot", w.app)
		after(time.Second)
		soon := strconv.FormatInt(time.Now().Add(time.Minute).UnixMilli(), 10)
		text := time.Now().Add(time.Minute).Format(time.RFC3339)
		push(
			`{"id":"1","op":"scale","args":{"workers":"+2"},"expires_at":`+soon+`}`,
			`{"id":"2","op":"shed","args":{"count":5},"expires_at":"`+text+`"}`,
			`{"id":"1","op":"drain","expires_at":`+soon+`}`, // another order of an id that was obeyed
			`{"id":"3","op":"drain","args":{},"expires_at":1}`,
			"no \x1b[31morder",
			strings.Repeat("x", 5000),
			`{"id":"4","op":"roll","expires_at":`+soon+`}`,
		)
		after(3 * time.Second)
		got := w.app.obeyed()
		want := []control.Command{{ID: "1", Op: control.OpScale, Args: control.Args{Workers: "+2"}}, {ID: "2", Op: control.OpShed, Args: control.Args{Count: 5, Seconds: 10}}, {ID: "4", Op: control.OpRoll}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if w.Exists(key) {
			t.Error("orders are left on the list")
		}
		w.app.mu.Lock()
		if late := w.app.refused; len(late) != 1 || late[0].ID != "3" || !strings.HasPrefix(late[0].Refused, "it came too late: it expired ") {
			t.Errorf("refused: %+v", late)
		}
		w.app.mu.Unlock()
		log := w.log.String()
		if said := "commands from Redis are not understood"; !strings.Contains(log, said) {
			t.Errorf("%q is not in the log:\n%s", said, log)
		}
		if strings.Contains(log, "\x1b") {
			t.Errorf("%q", log)
		}
		// Many: all, in their order, once, though answers get lost on the way.
		for i := range 100 {
			push(`{"id":"n` + strconv.Itoa(i) + `","op":"resume","expires_at":` + soon + `}`)
			if i == 50 {
				after(150 * time.Millisecond)
				w.cut()
			}
		}
		after(5 * time.Second)
		got = w.app.obeyed()[3:]
		for i, c := range got {
			if c.ID != "n"+strconv.Itoa(i) {
				t.Fatalf("%d: %+v", i, c)
			}
		}
		if len(got) != 100 {
			t.Errorf("%d orders", len(got))
		}
		r.Close(t.Context(), false)

		// A host that does not take orders leaves them alone.
		s := w.settings()
		s.Control = false
		push(`{"id":"5","op":"drain","expires_at":` + soon + `}`)
		w.start(s, "boot", w.app)
		after(5 * time.Second)
		if len(w.app.obeyed()) != 103 || !w.Exists(key) {
			t.Error("an order is obeyed without redis.control")
		}
	})
}

// A key that somebody else has made does not stop the report, and is said.
func TestKeysOfAnotherType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, key := range []string{"forkd:{shop}:host:web-1", "forkd:{shop}:cmd:web-1"} {
			if err := w.Set(key, "x"); err != nil {
				t.Fatal(err)
			}
		}
		r := w.start(w.settings(), "boot", w.app)
		after(time.Second)
		if h := r.Health(); h.State != control.RedisUp || !strings.Contains(h.Error, "WRONGTYPE") || w.field("boot") != "boot" {
			t.Errorf("%+v", h)
		}
	})
}

func TestHostsThatAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		now := time.Now()
		add := func(n int, name string, expires time.Time) {
			for i := range n {
				for _, key := range []string{"hosts", "load"} {
					score := float64(expires.UnixMilli())
					if _, err := w.ZAdd("forkd:{shop}:"+key, score, name+strconv.Itoa(i)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		add(250, "old", now.Add(-time.Hour))
		add(3, "late", now.Add(-time.Second))
		add(2, "live", now.Add(time.Hour))
		w.start(w.settings(), "boot", w.app)
		after(time.Minute)
		hosts, _ := w.ZMembers("forkd:{shop}:hosts")
		load, _ := w.ZMembers("forkd:{shop}:load")
		if len(hosts) != 6 || len(load) != 3 {
			t.Errorf("hosts %v, load %v", hosts, load)
		}
	})
}

// An app that could not be listed is listed with the next beat that finds nothing in
// the way, not a time to live later, and until then status says why it is not.
func TestListedAsSoonAsItCanBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if err := w.Set("forkd:apps", "no list"); err != nil {
			t.Fatal(err)
		}
		s := w.settings()
		s.TTL = time.Hour
		r := w.start(s, "boot", w.app)
		after(time.Second)
		if h := r.Health(); h.State != control.RedisUp || !strings.HasPrefix(h.Error, "cannot put the app on the list of apps: WRONGTYPE") {
			t.Errorf("%+v", h)
		}
		w.Del("forkd:apps")
		after(2 * s.Every())
		if h := r.Health(); h.Error != "" {
			t.Errorf("%+v", h)
		}
		if _, err := w.ZScore("forkd:apps", "shop"); err != nil {
			t.Error(err)
		}
	})
}
