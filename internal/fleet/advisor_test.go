package fleet_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// load has hosts web-1, web-2 and so on report so many connections, of 1000 each.
func load(t testing.TB, s *server, connections ...int64) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: s.address, Protocol: 2, Username: s.options.user, Password: s.options.password})
	defer client.Close()
	status := newApp("b1", 1).status
	for i, n := range connections {
		status.Totals.Connections = &n
		settings := fleet.Settings{HostID: fmt.Sprint("web-", i+1), Interval: 10 * time.Minute, ConnectionLimit: 1000, Control: i == 0}
		seq := uint64(s.now()) //nolint:gosec // ms since the epoch
		keys, args := fleet.Heartbeat(settings, fleet.App{Name: "shop", Boot: "b1", StartedAt: status.StartedAt}, status, seq, nil)
		if err := fleet.HeartbeatScript().Run(t.Context(), client, keys, args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func adviser(t testing.TB, s *server, id string) *fleet.Advisor {
	t.Helper()
	return open(t, fleet.Settings{URL: "redis://" + s.address}).Advisor("shop", id, advise.Default())
}

// seen is an adviser's look.
func seen(t testing.TB, a *fleet.Advisor) advise.Advice {
	t.Helper()
	_, advice, err := a.Look(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	return advice
}

func (s *server) token(t testing.TB) (token int64, id string) {
	t.Helper()
	text, _ := s.do("GET", "forkd:{shop}:leader").(string)
	before, id, _ := strings.Cut(text, " ")
	token, err := strconv.ParseInt(before, 10, 64)
	if err != nil {
		t.Fatalf("the leader is %q", text)
	}
	return token, id
}

// One leads, the other sees the same and waits; when the first leaves, or has not been
// heard of, the second goes on with what the first remembered.
func TestLeader(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	load(t, s, 900, 900)
	one, two := adviser(t, s, "one"), adviser(t, s, "two")
	a := seen(t, one)
	if a.Direction != advise.Out || a.HostsWanted != 3 || a.Add != 1 || !one.News(a) {
		t.Errorf("%+v", a)
	}
	b := seen(t, two)
	if b.Direction != advise.Out || b.HostsWanted != 3 || two.News(b) || two.Token() != "" || two.Leader() != "one" {
		t.Errorf("%+v, led by %q", b, two.Leader())
	}
	if err := two.Told(bounded(t), two.Telling(b)); !errors.Is(err, fleet.ErrNotLeader) {
		t.Errorf("told by one who does not lead: %v", err)
	}
	if err := one.Told(bounded(t), one.Telling(a)); err != nil {
		t.Fatal(err)
	}
	first, id := s.token(t)
	if id != "one" || one.Token() != fmt.Sprint(first) {
		t.Errorf("%d %q, not %q", first, id, one.Token())
	}
	if err := one.Leave(bounded(t)); err != nil {
		t.Fatal(err)
	}
	b = seen(t, two)
	if b.HostsWanted != 3 || b.Add != 0 || two.News(b) || two.Leader() != "two" {
		t.Errorf("the second asks for hosts again: %+v", b)
	}
	second, id := s.token(t)
	if id != "two" || second <= first {
		t.Errorf("%d %q after %d", second, id, first)
	}
	if got := s.do("PTTL", "forkd:{shop}:leader").(int64); got <= 0 || got > 10_000 {
		t.Errorf("the leader's time is %d ms", got)
	}
	if got := s.do("PTTL", "forkd:{shop}:advice").(int64); got < 6*24*3600*1000 {
		t.Errorf("it is remembered for %d ms", got)
	}
}

// One who does not know yet that its time has run out can't write: neither what it
// remembers nor a command.
func TestLeaderFenced(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	load(t, s, 500, 500)
	one, two := adviser(t, s, "one"), adviser(t, s, "two")
	seen(t, one)
	drain := fleet.Command{Command: control.Command{ID: "c1", Op: control.OpDrain}, ExpiresAt: time.UnixMilli(s.now()).Add(time.Minute)}
	if err := one.Send(bounded(t), "web-1", drain); err != nil {
		t.Fatal(err)
	}
	s.do("DEL", "forkd:{shop}:leader") // its time has run out
	seen(t, two)
	if _, leads := one.Leads(); !leads {
		t.Errorf("it knows already")
	}
	if err := one.Send(bounded(t), "web-1", drain); !errors.Is(err, fleet.ErrNotLeader) {
		t.Errorf("a command is sent: %v", err)
	}
	memory := s.do("HGET", "forkd:{shop}:advice", "memory")
	if err := one.Told(bounded(t), advise.Told{Wanted: 77}); !errors.Is(err, fleet.ErrNotLeader) {
		t.Errorf("it is written down: %v", err)
	}
	if got := s.do("HGET", "forkd:{shop}:advice", "memory"); got != memory {
		t.Errorf("the memory was %v, is %v", memory, got)
	}
	if n := s.do("LLEN", "forkd:{shop}:cmd:web-1"); n != int64(1) {
		t.Errorf("%v commands wait", n)
	}
	if left := s.do("PTTL", "forkd:{shop}:cmd:web-1").(int64); left < 10*60_000 || left > 11*60_000 {
		t.Errorf("the commands are kept for %d ms", left)
	}
	if a := seen(t, one); a.HostsWanted != 2 || one.Leader() != "two" {
		t.Errorf("%+v, led by %q", a, one.Leader())
	}
	for range 64 {
		if err := two.Send(bounded(t), "web-2", drain); err != nil {
			t.Fatal(err)
		}
	}
	if err := two.Send(bounded(t), "web-2", drain); err == nil || !strings.Contains(err.Error(), "has 64 commands waiting") {
		t.Errorf("%v", err)
	}
	if err := two.Send(bounded(t), "web 2", drain); err == nil {
		t.Errorf("a command for no host is sent")
	}
	drain.Op = "?"
	if err := two.Send(bounded(t), "web-1", drain); err == nil {
		t.Errorf("no command is sent")
	}
	// The first one leaves: the second stays the leader.
	if err := one.Leave(bounded(t)); err != nil {
		t.Error(err)
	}
	if _, id := s.token(t); id != "two" {
		t.Errorf("%s leads", id)
	}
}

// A leader goes on from what it remembers itself, where Redis has lost everything, and
// its token is still a greater one.
func TestLeaderFlushed(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	load(t, s, 900, 900, 900)
	one := adviser(t, s, "one")
	seen(t, one)
	first, _ := s.token(t)
	s.do("FLUSHALL")
	if a := seen(t, one); a.HostsWanted != 4 || a.Hosts != 0 {
		t.Errorf("%+v", a)
	}
	load(t, s, 900)
	if a := seen(t, one); a.HostsWanted != 4 || a.Hosts != 1 {
		t.Errorf("%+v", a)
	}
	if second, _ := s.token(t); second <= first {
		t.Errorf("%d after %d", second, first)
	}
	if a := seen(t, adviser(t, s, "two")); a.HostsWanted != 4 {
		t.Errorf("another one: %+v", a)
	}
	s.do("HSET", "forkd:{shop}:advice", "token", "4000000000000000") // by a clock that was ahead
	s.do("DEL", "forkd:{shop}:leader")
	seen(t, one)
	if second, _ := s.token(t); second != 4_000_000_000_000_001 {
		t.Errorf("the token is %d", second)
	}
	s.do("FLUSHALL")
	seen(t, one)
	if third, _ := s.token(t); third != 4_000_000_000_000_002 {
		t.Errorf("then it is %d", third)
	}
}

// Nobody who may write to Redis can do more harm than with a command.
func TestLeaderHostile(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	load(t, s, 500, 500)
	const key = "forkd:{shop}:advice"
	evil, err := json.Marshal(advise.Memory{Wanted: 1 << 40, At: time.Now().Add(-time.Second), Orders: map[string]advise.Order{"a\x1bb": {}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, memory := range []string{"", "{", "[]", "null", `{"wanted":"x"}`, `{"orders":{"web-1":7}}`, strings.Repeat(" ", 5<<20), string(evil)} {
		for _, token := range []string{"", "x", "-1", "1e400", "nan", "99999999999999999999"} {
			s.do("DEL", key, "forkd:{shop}:leader")
			s.do("HSET", key, "memory", memory, "token", token, "leader", "\x1b[2J")
			a := seen(t, adviser(t, s, "one"))
			if most := advise.Default().MaxHosts; a.HostsWanted != 2 && a.HostsWanted != most || len(a.Drain) > 0 {
				t.Errorf("%.40q: %+v", memory, a)
			}
			if n, _ := s.token(t); n < 1_000_000_000_000 || n > 1<<53 {
				t.Errorf("%q: the token is %d", token, n)
			}
		}
	}
	r := open(t, fleet.Settings{URL: "redis://" + s.address})
	s.do("SET", "forkd:{shop}:leader", "\x1b[2J \x1b[2J")
	one := adviser(t, s, "one")
	if a := seen(t, one); a.HostsWanted == 0 || one.Leader() != "?" {
		t.Errorf("%+v, led by %q", a, one.Leader())
	}
	s.do("DEL", key, "forkd:{shop}:leader")
	s.do("SET", key, "x")
	if _, _, err := one.Look(bounded(t)); err == nil || !strings.Contains(err.Error(), "WRONGTYPE") {
		t.Errorf("%v", err)
	}
	if _, a, err := r.Advice(bounded(t), "shop", advise.Default()); err != nil || a.HostsWanted != 2 {
		t.Errorf("who only reads: %v %+v", err, a)
	}
}

// adviserRights are those of docs/fleet.md, without the password.
func adviserRights(t testing.TB) string {
	t.Helper()
	_, rights, found := strings.Cut(fleetDocument(t), "    user forkd-adviser ")
	if !found {
		t.Fatal("docs/fleet.md has no rights of an adviser")
	}
	rights, _, _ = strings.Cut(rights, "\n")
	return "user forkd-adviser " + rights
}

// Those who only read get the advice with what the leader remembers.
func TestReaderAdvice(t *testing.T) {
	t.Parallel()
	_, rights := leastPrivilege(t)
	s := start(t, options{config: []string{allowed(rights, ""), allowed(adviserRights(t), "")}})
	load(t, s, 900, 900)
	url := "redis://" + s.address
	r := open(t, fleet.Settings{URL: url, Username: "forkd-reader", PasswordFile: secret(t)})
	one := open(t, fleet.Settings{URL: url, Username: "forkd-adviser", PasswordFile: secret(t)}).Advisor("shop", "one", advise.Default())
	f, a, err := r.Advice(bounded(t), "shop", advise.Default())
	if err != nil || a.HostsWanted != 3 || len(f.Hosts) != 2 || len(f.Hosts[0].Workers) != 1 || !*f.Hosts[0].Control || *f.Hosts[1].Control {
		t.Errorf("%v %+v %+v", err, a, f)
	}
	seen(t, one)
	load(t, s, 1500, 1500)
	_, a, err = r.Advice(bounded(t), "shop", advise.Default())
	if err != nil || a.HostsWanted != 3 || a.Until == nil {
		t.Errorf("the leader's cooldown does not count: %v %+v", err, a)
	}
	command := fleet.Command{Command: control.Command{ID: "c1", Op: control.OpResume}, ExpiresAt: time.UnixMilli(s.now()).Add(time.Minute)}
	if err := one.Send(bounded(t), "web-1", command); err != nil {
		t.Error(err)
	}
	if err := one.Leave(bounded(t)); err != nil {
		t.Error(err)
	}
	if f, a, err := r.Advice(bounded(t), "elsewhere", advise.Default()); err != nil || len(f.Hosts) > 0 || a.HostsWanted != 1 {
		t.Errorf("no such app: %v %+v", err, a)
	}
	refusedNothing(t, []*server{s})
}

// Autoscalers are told what the leader says, by its policy, and where nobody leads what
// follows from the last leader's memory and their own.
func TestScale(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	load(t, s, 500, 500)
	r := open(t, fleet.Settings{URL: "redis://" + s.address})
	var m advise.Memory
	scale := func(p advise.Policy) advise.Advice {
		t.Helper()
		f, a, err := r.Scale(bounded(t), "shop", p, &m)
		if err != nil || len(f.Hosts) == 0 || len(f.Hosts[0].Workers) != 1 {
			t.Fatalf("%v %+v", err, f)
		}
		return a
	}
	leaderless := func(a advise.Advice) bool { return strings.HasSuffix(a.Reason, fleet.Leaderless) }

	// Nobody has ever led: what is asked for is remembered, and nothing is taken away at once.
	if a := scale(advise.Default()); a.HostsWanted != 2 || !leaderless(a) {
		t.Errorf("nobody leads: %+v", a)
	}
	load(t, s, 900, 900)
	if a := scale(advise.Default()); a.HostsWanted != 3 || !leaderless(a) {
		t.Errorf("out: %+v", a)
	}
	load(t, s, 2500, 2500)
	if a := scale(advise.Default()); a.HostsWanted != 3 || a.Until == nil {
		t.Errorf("no cooldown: %+v", a)
	}
	load(t, s, 10, 10)
	if a := scale(advise.Default()); a.HostsWanted != 3 || a.Direction == advise.In {
		t.Errorf("in within a cooldown: %+v", a)
	}

	// Another policy than the leader's.
	load(t, s, 500, 500)
	roomy := advise.Default()
	roomy.MaxUtilization, roomy.MinUtilization = 40, 20
	one := open(t, fleet.Settings{URL: "redis://" + s.address}).Advisor("shop", "one", roomy)
	said := seen(t, one)
	load(t, s, 2900, 2900) // the leader has not looked yet
	if a := scale(advise.Default()); a.HostsWanted != 3 || said.HostsWanted != 3 || a.Reason != said.Reason || a.Drain == nil {
		t.Errorf("%+v, not the leader's %+v", a, said)
	}
	if err := one.Told(bounded(t), one.Telling(said)); err != nil {
		t.Fatal(err)
	}
	if a := scale(advise.Default()); a.Reason != said.Reason {
		t.Errorf("%+v, once the hook was told", a)
	}

	// What a stranger writes is no advice, and no times are to come.
	const key = "forkd:{shop}:advice"
	good := s.do("HGET", key, "advice").(string)
	for _, evil := range []string{
		"", "{", "null", `{"hosts_wanted":-1}`, `{"hosts_wanted":1e9}`, `{"hosts_wanted":1.5}`, `{"reason":"` + strings.Repeat("x", 5000) + `"}`,
		strings.Repeat(" ", 5<<20),
	} {
		s.do("HSET", key, "advice", evil)
		if a := scale(advise.Default()); !leaderless(a) || a.HostsWanted < 1 || a.HostsWanted > 100 {
			t.Errorf("%.40q: %+v", evil, a)
		}
	}
	s.do("HSET", key, "advice", `{"hosts_wanted":7,"drain":["a\u001bb","web-1"],"unknown":["web-2"`+strings.Repeat(`,"web-2"`, 5000)+`]}`)
	if a := scale(advise.Default()); a.HostsWanted != 7 || len(a.Drain) != 1 || len(a.Unknown) != 1000 {
		t.Errorf("%+v", a)
	}
	load(t, s, 500, 500)
	for ms, want := range map[int64]int{3600_000: 2, -11_000: 5} {
		text, err := json.Marshal(advise.Memory{At: time.UnixMilli(s.now() + ms).UTC(), Wanted: 5})
		if err != nil {
			t.Fatal(err)
		}
		s.do("HSET", key, "memory", string(text), "advice", good)
		m = advise.Memory{}
		if a := scale(advise.Default()); !leaderless(a) || a.HostsWanted != want {
			t.Errorf("%d ms from now: %+v", ms, a)
		}
	}
}

// What is not sure is not known.
func TestHostsOf(t *testing.T) {
	t.Parallel()
	n := new(int64(7))
	f := fleet.Fleet{Hosts: []fleet.Host{
		{ID: "a", State: "ready", Boot: "b", Connections: n, Capacity: n, Stale: true, Vanished: true, Control: new(true)},
		{ID: "b", State: "ready", Connections: n, Capacity: n, Twin: "c"},
		{ID: "c", State: "ready", Connections: n, Capacity: n, Problem: "seq: it is none"},
	}}
	got := fleet.HostsOf(f)
	want := []advise.Host{
		{ID: "a", State: "ready", Boot: "b", Connections: n, Capacity: n, Stale: true, Vanished: true},
		{ID: "b", State: "ready"},
		{ID: "c", State: "ready"},
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%+v, not %+v", got[i], want[i])
		}
	}
}
