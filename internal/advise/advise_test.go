package advise_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/advise"
)

var at = time.Unix(1_700_000_000, 0).UTC() //nolint:gochecknoglobals // not changed

// hosts are ready hosts h1, h2 and so on, that can hold 1000 connections each.
func hosts(connections ...int64) []advise.Host {
	var list []advise.Host
	for i, n := range connections {
		list = append(list, advise.Host{ID: fmt.Sprint("h", i+1), Boot: "b", State: advise.StateReady, Connections: new(n), Capacity: new(int64(1000))})
	}
	return list
}

// with returns a list with the host at i changed.
func with(list []advise.Host, i int, change func(*advise.Host)) []advise.Host {
	change(&list[i])
	return list
}

// What follows from one look at the hosts, without a past.
func TestMoment(t *testing.T) {
	t.Parallel()
	same := func(n int64, times int) []advise.Host { return hosts(slices.Repeat([]int64{n}, times)...) }
	for name, of := range map[string]struct {
		policy    func(*advise.Policy)
		hosts     []advise.Host
		wanted    int
		add       int
		direction string
		drain     string
		remove    string
		reason    string // a part of it
	}{
		"between":        {hosts: same(600, 3), wanted: 3, reason: "utilization 60% is from 25% to 80%: 1800 connections on 3 hosts of 1000"},
		"at the upper":   {hosts: same(800, 3), wanted: 3, reason: "utilization 80% is from 25% to 80%"},
		"over":           {hosts: same(801, 3), wanted: 4, add: 1, direction: advise.Out, reason: "utilization 80.1% is over 80%: 2403 connections on 3 hosts of 1000; with 4 hosts it is 60.1%"},
		"just over":      {hosts: hosts(8001, 8000, 8000), policy: func(p *advise.Policy) { p.Limit = 10_000 }, wanted: 4, add: 1, direction: advise.Out, reason: "utilization 80.1% is over 80%"},
		"far over":       {hosts: same(1500, 4), wanted: 8, add: 4, direction: advise.Out, reason: "with 8 hosts it is 75%"},
		"one":            {hosts: same(900, 1), wanted: 2, add: 1, direction: advise.Out},
		"the most":       {hosts: same(900, 3), policy: func(p *advise.Policy) { p.MaxHosts = 3 }, wanted: 3, reason: "no more than 3 hosts are allowed"},
		"up to the most": {hosts: same(1500, 4), policy: func(p *advise.Policy) { p.MaxHosts = 6 }, wanted: 6, add: 2, direction: advise.Out},
		"at the lower":   {hosts: same(250, 4), wanted: 4},
		"under":          {hosts: hosts(240, 249, 250, 250), wanted: 2, direction: advise.In, drain: "h1 h2", reason: "utilization 24.7% is under 25%: 989 connections on 4 hosts of 1000; with 2 hosts it is 49.5%"},
		"fewest drain":   {hosts: hosts(90, 10, 50, 90, 20), wanted: 1, direction: advise.In, drain: "h2 h5 h3 h1"},
		"none left":      {hosts: same(0, 3), wanted: 1, direction: advise.In, drain: "h1 h2"},
		"the least":      {hosts: same(10, 2), policy: func(p *advise.Policy) { p.MinHosts = 2 }, wanted: 2, reason: "2 hosts are the least"},
		"to the least":   {hosts: same(10, 4), policy: func(p *advise.Policy) { p.MinHosts = 3 }, wanted: 3, direction: advise.In, drain: "h1"},
		"a last one":     {hosts: same(10, 1), wanted: 1, reason: "1 host is the least"},
		"fewer than the least": {
			hosts: same(500, 2), policy: func(p *advise.Policy) { p.MinHosts = 4 }, wanted: 4, reason: "2 of 4 hosts missing",
		},
		"no capacity":     {hosts: with(same(500, 1), 0, func(h *advise.Host) { h.Capacity = nil }), wanted: 1, reason: "no host that serves has known figures: 1 host is wanted, as before"},
		"the limit rules": {hosts: with(same(500, 1), 0, func(h *advise.Host) { h.Capacity = nil }), policy: func(p *advise.Policy) { p.Limit = 500 }, wanted: 2, add: 1, direction: advise.Out},
		"own capacities":  {hosts: with(same(700, 2), 1, func(h *advise.Host) { *h.Capacity = 400 }), wanted: 3, add: 1, direction: advise.Out, reason: "utilization 100% is over 80%: 1400 connections on 2 hosts of 700"},
		// They would fit on fewer hosts of the mean, but not on those that are left.
		"a large one stays": {
			hosts: with(hosts(700, 200, 200), 0, func(h *advise.Host) { *h.Capacity = 7000 }), wanted: 1, direction: advise.In, drain: "h2 h3",
		},
		"only a large one": {
			hosts: with(hosts(300, 400, 400), 0, func(h *advise.Host) { *h.Capacity = 7000 }), wanted: 2, direction: advise.In, drain: "h1",
		},
		"a large one goes not": {
			hosts: with(hosts(300, 800, 800), 0, func(h *advise.Host) { *h.Capacity = 7000 }), wanted: 3, reason: "fewer could not hold them",
		},
		"nothing known": {hosts: with(with(same(0, 2), 0, func(h *advise.Host) { h.Connections = nil }), 1, func(h *advise.Host) { h.Connections = nil }), wanted: 2, reason: "h1, h2"},
		"nothing there": {hosts: nil, wanted: 1},
		"one not known": {hosts: with(same(900, 4), 0, func(h *advise.Host) { h.Connections = nil }), wanted: 5, add: 1, direction: advise.Out, reason: "1 host takes no part, as figures are missing, old or of two hosts: h1"},
		"one stale":     {hosts: with(same(900, 4), 3, func(h *advise.Host) { h.Stale = true }), wanted: 5, add: 1, direction: advise.Out, reason: "no part, as figures are missing, old or of two hosts: h4"},
		"stale, few":    {hosts: with(same(100, 4), 3, func(h *advise.Host) { h.Stale = true }), wanted: 2, direction: advise.In, drain: "h1 h2"},
		"unknown stays": {hosts: with(same(0, 3), 0, func(h *advise.Host) { h.Connections = nil }), wanted: 2, direction: advise.In, drain: "h2"},
		"one vanished":  {hosts: with(same(600, 4), 3, func(h *advise.Host) { h.Vanished = true }), wanted: 3},
		"one starting":  {hosts: with(same(900, 4), 3, func(h *advise.Host) { h.State, *h.Connections = advise.StateStarting, 0 }), wanted: 4, reason: "1 host is coming: then it is 67.5%"},
		"starting, stale": {
			hosts: with(same(900, 4), 3, func(h *advise.Host) { h.State, h.Stale = advise.StateStarting, true }), wanted: 5, add: 1, direction: advise.Out, reason: "old or of two hosts: h4",
		},
		"starting, over": {hosts: with(same(1700, 3), 2, func(h *advise.Host) { h.State, *h.Connections = advise.StateStarting, 0 }), wanted: 5, add: 2, direction: advise.Out},
		"starting, in":   {hosts: with(same(100, 4), 3, func(h *advise.Host) { h.State = advise.StateStarting }), wanted: 4, reason: "first 1 host is coming"},
		// Its connections come back to the others, it serves no new ones.
		"drained":       {hosts: with(same(600, 4), 0, func(h *advise.Host) { h.State = advise.StateDraining }), wanted: 3, reason: "1 host is drained by somebody else"},
		"drained, over": {hosts: with(same(700, 4), 0, func(h *advise.Host) { h.State = advise.StateDraining }), wanted: 4, add: 1, direction: advise.Out, reason: "2800 connections on 3 hosts"},
		"stopping":      {hosts: with(same(600, 4), 0, func(h *advise.Host) { h.State = advise.StateStopping }), wanted: 3},
		"no state":      {hosts: with(same(600, 4), 0, func(h *advise.Host) { h.State = "?" }), wanted: 4, reason: "h1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := advise.Default()
			if of.policy != nil {
				of.policy(&p)
			}
			if err := p.Check(); err != nil {
				t.Fatal(err)
			}
			_, a := p.Advise(at, advise.Memory{}, of.hosts)
			if a.HostsWanted != of.wanted || a.Add != of.add || a.Direction != of.direction ||
				strings.Join(a.Drain, " ") != of.drain || strings.Join(a.Remove, " ") != of.remove || !strings.Contains(a.Reason, of.reason) {
				t.Errorf("got %+v", a)
			}
		})
	}
}

// follow advises on one look after the other, each some time after the one before.
type follow struct {
	p   advise.Policy
	m   advise.Memory
	now time.Time
	a   advise.Advice
}

func (f *follow) look(after time.Duration, hosts []advise.Host) {
	f.now = f.now.Add(after)
	f.m, f.a = f.p.Advise(f.now, f.m, hosts)
}

func begin() *follow { return &follow{p: advise.Default(), m: advise.Start(at), now: at} }

func (f *follow) expect(t *testing.T, wanted int, direction, reason string) {
	t.Helper()
	if f.a.HostsWanted != wanted || f.a.Direction != direction || !strings.Contains(f.a.Reason, reason) {
		t.Errorf("got %+v", f.a)
	}
}

func TestCooldowns(t *testing.T) {
	t.Parallel()
	f := begin()
	f.look(time.Minute, hosts(900, 900))
	f.expect(t, 3, advise.Out, "with 3 hosts")
	f.look(2*time.Minute, hosts(900, 900, 900))
	f.expect(t, 3, advise.None, "4 hosts are needed, held back by the cooldown")
	if want := at.Add(4 * time.Minute); f.a.Until == nil || !f.a.Until.Equal(want) {
		t.Errorf("until %v, not %v", f.a.Until, want)
	}
	f.look(time.Minute, hosts(900, 900, 900))
	f.expect(t, 4, advise.Out, "with 4 hosts")
	f.look(time.Minute, hosts(200, 200, 200, 200))
	f.look(8*time.Minute, hosts(200, 200, 200, 200)) // the most of the last minutes was 2700 before
	f.expect(t, 4, advise.None, "2 hosts are enough, held back by the cooldown")
	f.look(time.Minute, hosts(200, 200, 200, 200))
	f.expect(t, 2, advise.In, "with 2 hosts")
	rest := hosts(0, 0, 900, 900)[2:] // h1 and h2 are gone
	f.look(2*time.Minute, rest)
	f.expect(t, 2, advise.None, "3 hosts are needed, held back")
	f.look(time.Minute, rest)
	f.expect(t, 3, advise.Out, "with 3 hosts")
}

// An out to the most hosts is not repeated while they are coming; after an in no host that
// an out asked for is.
func TestAsked(t *testing.T) {
	t.Parallel()
	f := begin()
	f.p.MaxHosts, f.p.InCooldown = 4, time.Minute
	f.look(time.Minute, hosts(1500, 1500, 1500))
	f.expect(t, 4, advise.Out, "with 4 hosts")
	out := f.m.Out
	f.look(4*time.Minute, hosts(1500, 1500, 1500))
	f.expect(t, 4, advise.Out, "no more than 4 hosts are allowed")
	if !f.m.Out.Equal(out) {
		t.Errorf("another out")
	}
	f.look(time.Minute, hosts(100, 100, 100, 100))
	f.look(2*time.Minute, hosts(100, 100, 100, 100))
	f.expect(t, 1, advise.In, "with 1 host")
	f.look(time.Second, hosts(100, 100, 100, 100)[3:])
	if f.a.Coming != 0 || f.a.HostsWanted != 1 {
		t.Errorf("%+v", f.a)
	}
}

// One who begins to watch a fleet does not begin with an in.
func TestBeginning(t *testing.T) {
	t.Parallel()
	f := begin()
	f.look(9*time.Minute, hosts(10, 10))
	f.expect(t, 2, advise.None, "held back")
	f.look(time.Minute, hosts(10, 10))
	f.expect(t, 1, advise.In, "")
	// After a restart of Redis the hosts report one after the other.
	f = begin()
	f.look(0, hosts(500))
	f.look(time.Second, hosts(500, 500, 500))
	f.expect(t, 3, advise.None, "")
}

// Clients that were cut off will be back: for an in, what counts is the most of the last
// minutes.
func TestPeak(t *testing.T) {
	t.Parallel()
	f := begin()
	f.look(15*time.Minute, hosts(500, 500, 500))
	for range 119 {
		f.look(time.Second, hosts(0, 10, 0))
		f.expect(t, 3, advise.None, "utilization 50% is from 25%")
	}
	f.look(2*time.Minute, hosts(0, 10, 0))
	f.look(2*time.Minute, hosts(0, 10, 0))
	f.expect(t, 1, advise.In, "")
}

// A host is removed when it is empty, or when its time is over.
func TestRemoval(t *testing.T) {
	t.Parallel()
	drained := func(state string, n int64) []advise.Host {
		return with(hosts(200, n, 200), 1, func(h *advise.Host) { h.State = state })
	}
	f := begin()
	f.p.MinHosts = 2
	f.look(15*time.Minute, hosts(200, 100, 200))
	f.expect(t, 2, advise.In, "")
	for _, of := range []struct {
		hosts         []advise.Host
		after         time.Duration
		drain, remove string
	}{
		{drained(advise.StateReady, 100), time.Second, "h2", ""},
		{drained(advise.StateReady, 0), time.Second, "h2", ""}, // somebody may come still
		{drained(advise.StateDraining, 100), time.Second, "", ""},
		{with(drained(advise.StateDraining, 0), 1, func(h *advise.Host) { h.Connections = nil }), time.Second, "", ""},
		{with(drained(advise.StateDraining, 0), 1, func(h *advise.Host) { h.Stale = true }), time.Second, "", ""},
		{drained(advise.StateDraining, 0), time.Second, "", "h2"},
		{drained(advise.StateDraining, 1), time.Second, "", ""},
		{drained(advise.StateStopping, 1), time.Second, "", ""},
		{with(drained(advise.StateDraining, 1), 1, func(h *advise.Host) { h.Vanished = true }), time.Second, "", ""},
		{nil, time.Second, "", ""}, // Redis has lost everything
		{drained(advise.StateDraining, 1), 29 * time.Minute, "", ""},
		{drained(advise.StateDraining, 1), time.Minute, "", "h2"},
		{hosts(200), time.Second, "", ""},
		{with(drained(advise.StateDraining, 1), 1, func(h *advise.Host) { h.Boot = "c" }), time.Second, "", ""}, // it was started anew
	} {
		f.look(of.after, of.hosts)
		if strings.Join(f.a.Drain, " ") != of.drain || strings.Join(f.a.Remove, " ") != of.remove {
			t.Errorf("%+v: %+v", of, f.a)
		}
	}
	if len(f.m.Orders) > 0 {
		t.Errorf("orders remain: %v", f.m.Orders)
	}
}

// An operator has the last word.
func TestOperators(t *testing.T) {
	t.Parallel()
	f := begin()
	f.look(15*time.Minute, hosts(100, 90, 200))
	draining := with(hosts(100, 90, 200), 1, func(h *advise.Host) { h.State = advise.StateDraining })
	f.look(time.Second, draining)
	f.look(time.Second, hosts(100, 90, 200))
	if got := slices.Collect(maps.Keys(f.m.Orders)); len(got) != 1 || got[0] != "h1" {
		t.Errorf("h2 was resumed, and is still to drain: %v", got)
	}
}

// A host that drains is resumed before a new one is asked for: the one with the most
// connections first.
func TestResumeFirst(t *testing.T) {
	t.Parallel()
	fleet := func(a, b, c, d int64, states ...string) []advise.Host {
		list := hosts(a, b, c, d)
		for i, state := range states {
			list[i].State = state
		}
		return list
	}
	f := begin()
	f.look(15*time.Minute, hosts(50, 100, 200, 400))
	if got := strings.Join(f.a.Drain, " "); got != "h1 h2 h3" {
		t.Fatalf("drains %s", got)
	}
	f.look(time.Minute, fleet(50, 100, 200, 500, advise.StateDraining, advise.StateDraining, advise.StateReady))
	f.look(3*time.Minute, fleet(0, 100, 200, 900, advise.StateDraining, advise.StateDraining, advise.StateReady))
	// h1 is empty and perhaps about to be removed, h3 has not been drained yet.
	if f.a.Direction != advise.Out || f.a.HostsWanted != 2 || len(f.a.Resume) > 0 || f.a.Add != 0 || strings.Join(f.a.Remove, " ") != "h1" || len(f.a.Drain) > 0 {
		t.Errorf("%+v", f.a)
	}
	f.look(3*time.Minute, fleet(0, 100, 900, 900, advise.StateDraining, advise.StateDraining, advise.StateReady))
	if strings.Join(f.a.Resume, " ") != "h2" || f.a.HostsWanted != 3 || f.a.Add != 0 || f.a.Coming != 1 {
		t.Errorf("%+v", f.a)
	}
	f.look(time.Second, fleet(0, 100, 900, 900, advise.StateDraining, advise.StateDraining, advise.StateReady))
	if strings.Join(f.a.Resume, " ") != "h2" {
		t.Errorf("not resumed yet, and not said: %+v", f.a)
	}
	f.look(time.Second, fleet(0, 100, 900, 900, advise.StateDraining, advise.StateReady, advise.StateReady))
	if len(f.a.Resume) > 0 || f.a.Hosts != 3 || f.a.Coming != 0 {
		t.Errorf("%+v", f.a)
	}
}

// A host that does not report cannot be resumed.
func TestResumeStale(t *testing.T) {
	t.Parallel()
	f := begin()
	f.look(15*time.Minute, hosts(100, 200))
	f.look(4*time.Minute, with(hosts(100, 900), 0, func(h *advise.Host) { h.State, h.Stale = advise.StateDraining, true }))
	if len(f.a.Resume) > 0 || f.a.Add != 1 {
		t.Errorf("%+v", f.a)
	}
}

// What is wanted falls only by an in, and rises when hosts have stayed.
func TestWanted(t *testing.T) {
	t.Parallel()
	f := begin()
	f.look(time.Hour/2, hosts(500, 500, 500))
	f.look(time.Second, hosts(500, 500))
	f.expect(t, 3, advise.None, "1 of 3 hosts missing")
	f.look(50*time.Minute, hosts(500, 500))
	f.expect(t, 3, advise.None, "1 of 3 hosts missing")
	f.look(time.Second, hosts(500, 500, 500, 500)) // the successor is there before its predecessor goes
	f.expect(t, 3, advise.None, "")
	f.look(time.Second, hosts(500, 500, 500))
	f.look(20*time.Minute, hosts(500, 500, 500, 500))
	f.expect(t, 3, advise.None, "")
	f.look(10*time.Minute, hosts(500, 500, 500, 500))
	f.expect(t, 4, advise.None, "")
	f.look(time.Second, hosts(100, 100))
	f.look(5*time.Minute, hosts(100, 100))
	f.expect(t, 4, advise.None, "2 hosts are missing, and may be back")
	f.look(10*time.Minute, hosts(100, 100))
	f.expect(t, 1, advise.In, "")
	// Nobody was there for long: what was wanted then says nothing.
	f = begin()
	f.look(time.Minute, hosts(500, 500))
	f.look(2*time.Hour, hosts(500, 500, 500))
	f.expect(t, 3, advise.None, "")
}

// A fleet with too few hosts for long gets more, whatever its utilization.
func TestLeast(t *testing.T) {
	t.Parallel()
	f := begin()
	f.p.MinHosts = 3
	f.look(time.Minute, hosts(500, 500, 500))
	f.look(time.Minute, hosts(500))
	f.look(2*time.Minute, hosts(500))
	f.expect(t, 3, advise.None, "2 of 3 hosts missing")
	f.look(2*time.Minute, hosts(500))
	f.expect(t, 3, advise.Out, "1 host is there, 3 hosts are the least")
	if f.a.Add != 2 {
		t.Errorf("%+v", f.a)
	}
}

// An out does not lower the number that is wanted while the missing hosts may be back.
func TestOutWhileMissing(t *testing.T) {
	t.Parallel()
	f := begin()
	f.look(time.Minute, hosts(slices.Repeat([]int64{600}, 10)...))
	f.look(time.Minute, hosts(slices.Repeat([]int64{850}, 7)...))
	f.expect(t, 10, advise.Out, "with 8 hosts")
	if f.a.Add != 1 {
		t.Errorf("%+v", f.a)
	}
}

// The number of hosts to add is said until it was told, and not again to the next leader.
func TestTold(t *testing.T) {
	t.Parallel()
	f := begin()
	quiet := func(what string) {
		t.Helper()
		if f.p.News(f.m, f.a) {
			t.Errorf("%s: news: %+v", what, f.a)
		}
	}
	news := func(what string, add int, remove string) {
		t.Helper()
		if !f.p.News(f.m, f.a) || f.a.Add != add || strings.Join(f.a.Remove, " ") != remove {
			t.Errorf("%s: no news, or others: %+v", what, f.a)
		}
	}
	f.look(time.Minute, hosts(500, 500))
	quiet("nothing to do")
	f.look(time.Minute, hosts(1500, 1500))
	news("out", 2, "")
	f.look(time.Second, hosts(1500, 1500))
	news("not told yet", 2, "")
	f.m.Told = f.m.Telling(f.a)
	f.m = reread(t, f.m)
	f.look(time.Second, hosts(1500, 1500))
	quiet("told")
	if f.a.Add != 0 || f.a.Coming != 2 {
		t.Errorf("%+v", f.a)
	}
	f.look(4*time.Minute, hosts(2500, 2500))
	news("out again", 3, "") // 7 in all, 4 were told
	f.m.Told = f.m.Telling(f.a)
	f.look(11*time.Minute, hosts(2500, 2500))
	news("they have not come", 5, "")
	f.m.Told = f.m.Telling(f.a)
	seven := hosts(100, 100, 100, 100, 100, 100, 100)
	f.look(time.Minute, seven)
	f.look(11*time.Minute, seven)
	f.look(4*time.Minute, seven)
	news("in", 0, "")
	f.m.Told = f.m.Telling(f.a)
	for i := range 6 {
		seven[i].State = advise.StateDraining
	}
	seven[5].Connections = new(int64(0))
	f.look(time.Minute, seven)
	news("one is empty", 0, "h6")
	f.m.Told = f.m.Telling(f.a)
	f.look(time.Second, seven)
	quiet("it is being removed")
	f.look(10*time.Minute, seven)
	news("it is still there", 0, "h6")
	f.m.Told = f.m.Telling(f.a)
	f.look(time.Second, append(seven[:5:5], seven[6]))
	quiet("it is gone")
}

// A leader's memory goes through JSON, and whatever stands there does no harm.
func TestMemory(t *testing.T) {
	t.Parallel()
	f := begin()
	f.p.ShedPerSecond = 10
	f.look(15*time.Minute, hosts(300, 60, 0, 300))
	f.look(2*time.Second, hosts(400, 60, 0, 300))
	if got := reread(t, f.m); !reflect.DeepEqual(got, f.m) || len(got.Orders) == 0 {
		t.Errorf("%+v\nbecomes %+v", f.m, got)
	}
	before := reread(t, f.m)
	f.p.Advise(f.now.Add(time.Hour), f.m, hosts(900, 900, 900))
	if !reflect.DeepEqual(before, f.m) {
		t.Errorf("a memory that was given was changed")
	}
	future := at.Add(1000 * time.Hour)
	evil := advise.Memory{
		Began: future, At: future, Wanted: -5, Asked: 1 << 60, Out: future, In: future, Waits: future, Fewer: future, More: future,
		Peak: advise.Peak{Since: future, Now: -1, Before: 1 << 62}, Orders: map[string]advise.Order{"h1": {Boot: "b", Since: future}, "\x1b": {}},
		Sheds: map[string]time.Time{"h2": future}, Told: advise.Told{At: future, Wanted: -1, Asked: -1, Out: future, Remove: []string{"x"}},
	}
	f = begin()
	f.m = evil
	f.look(time.Minute, hosts(850, 850, 850))
	if o := f.m.Orders["h1"]; o.Since.After(f.now) || len(f.m.Sheds) > 0 {
		t.Errorf("%+v", f.m)
	}
	for range 100 {
		f.look(time.Minute, hosts(850, 850, 850))
	}
	f.expect(t, 4, advise.Out, "")
	if _, kept := f.m.Orders["\x1b"]; kept {
		t.Errorf("%+v", f.m)
	}
}

func reread(t *testing.T, m advise.Memory) (again advise.Memory) {
	t.Helper()
	text, err := json.Marshal(m)
	if err == nil {
		err = json.Unmarshal(text, &again)
	}
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// A host that is too full sheds down to the mean, and only where there is somebody to
// take its clients.
func TestShed(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]struct {
		policy func(*advise.Policy)
		m      advise.Memory
		hosts  []advise.Host
		want   map[string]int
	}{
		"even":         {hosts: hosts(500, 540, 460)},
		"one over":     {hosts: hosts(600, 450, 450), want: map[string]int{"h1": 100}},
		"at most":      {hosts: hosts(900, 100, 100), want: map[string]int{"h1": 300}}, // 30 s of 10 a second
		"nowhere":      {hosts: hosts(600)},
		"switched off": {hosts: hosts(600, 450, 450), policy: func(p *advise.Policy) { p.ShedPerSecond = 0 }},
		// One host below the mean takes no more than a host may shed.
		"shared":       {hosts: hosts(700, 700, 100), want: map[string]int{"h1": 150, "h2": 150}},
		"own capacity": {hosts: with(hosts(600, 1800, 300), 1, func(h *advise.Host) { *h.Capacity = 3000 }), want: map[string]int{"h1": 60, "h2": 180}, policy: func(p *advise.Policy) { p.ShedPerSecond = 100 }},
		"coming":       {hosts: with(hosts(600, 300, 300, 0), 3, func(h *advise.Host) { h.State = advise.StateStarting })},
		"missing":      {hosts: hosts(600, 450, 450), m: advise.Memory{Wanted: 4, At: at.Add(-time.Second)}},
		"full":         {hosts: hosts(1000, 750, 750), m: advise.Memory{Wanted: 3, At: at.Add(-time.Second), Out: at.Add(-time.Second)}},
		"stale":        {hosts: with(hosts(600, 100), 1, func(h *advise.Host) { h.Stale = true })},
		"under way":    {hosts: hosts(600, 450, 450), m: advise.Memory{Sheds: map[string]time.Time{"h1": at.Add(time.Second)}}},
		"slowly":       {hosts: hosts(600, 450, 450), policy: func(p *advise.Policy) { p.ShedPerSecond = 0.01 }, want: map[string]int{"h1": 1}},
		"too slowly":   {hosts: hosts(600, 450, 450), policy: func(p *advise.Policy) { p.ShedPerSecond = 0.0001 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := advise.Default()
			p.ShedPerSecond = 10
			if of.policy != nil {
				of.policy(&p)
			}
			m, a := p.Advise(at, of.m, of.hosts)
			got := map[string]int{}
			for _, s := range a.Shed {
				got[s.Host] = s.Count
				if rate := float64(s.Count) / float64(s.Seconds); rate > p.ShedPerSecond || rate < p.ShedPerSecond/4 && len(a.Shed) == 1 {
					t.Errorf("%+v is at a rate of %v", s, rate)
				}
				if until := m.Sheds[s.Host]; !until.After(at.Add(time.Duration(s.Seconds) * time.Second)) {
					t.Errorf("%+v is under way until %s", s, until)
				}
			}
			if !maps.Equal(got, of.want) {
				t.Errorf("sheds %v, not %v: %s", got, of.want, a.Reason)
			}
		})
	}
}

// Hosts that shed the same don't do it in step.
func TestShedJitter(t *testing.T) {
	t.Parallel()
	p := advise.Default()
	p.ShedPerSecond = 10
	_, a := p.Advise(at, advise.Memory{}, hosts(700, 700, 700, 700, 100, 100, 100, 100))
	took := map[int]bool{}
	for _, s := range a.Shed {
		took[s.Seconds] = true
	}
	if len(a.Shed) != 4 || len(took) < 2 {
		t.Errorf("%+v", a.Shed)
	}
}

// JSON has lists where there are none, and null where nothing is known.
func TestAdviceJSON(t *testing.T) {
	t.Parallel()
	_, a := advise.Default().Advise(at, advise.Memory{}, nil)
	text, err := json.Marshal(a)
	want := `{"hosts":0,"hosts_wanted":1,"coming":0,"add":0,"connections":0,"capacity":null,"utilization":null,"direction":"",` +
		`"reason":"no host that serves has known figures: 1 host is wanted, as before; 1 of 1 host missing",` +
		`"drain":[],"resume":[],"remove":[],"shed":[],"unknown":[],"until":null}`
	if err != nil || string(text) != want {
		t.Errorf("%v %s", err, text)
	}
}
