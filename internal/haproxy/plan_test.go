package haproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/fleet"
)

func at(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

// pool is some servers: "NAME ADDRESS STATE WEIGHT" of 100.
func pool(lines ...string) []server {
	var servers []server
	for i, line := range lines {
		s := server{initial: 100, since: time.Duration(i) * time.Hour}
		var addr string
		if _, err := fmt.Sscan(line, &s.name, &addr, &s.state, &s.weight); err != nil {
			panic(err)
		}
		s.addr = at(addr)
		servers = append(servers, s)
	}
	return servers
}

func TestPlan(t *testing.T) {
	const x, y, z = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
	never := pool("forkd1 0.0.0.0:1 maint 100", "forkd2 0.0.0.0:1 maint 100")
	ready := func(weight int) want { return want{host: "h", state: Ready, weight: weight} }
	type wanted = map[string]want
	for name, c := range map[string]struct {
		servers  []server
		wants    wanted
		gone     string
		want     string
		homeless int
	}{
		"nothing":                   {servers: never},
		"hosts come":                {servers: never, wants: wanted{x: ready(73), y: ready(100)}, want: "set server b/forkd1 addr 10.0.0.1 port 80;set server b/forkd1 weight 73;set server b/forkd1 state ready;\nset server b/forkd2 addr 10.0.0.2 port 80;set server b/forkd2 state ready;"},
		"more than servers":         {servers: never[:1], wants: wanted{x: ready(100), y: ready(100)}, want: "set server b/forkd1 addr 10.0.0.1 port 80;set server b/forkd1 state ready;", homeless: 1},
		"nothing new":               {servers: pool("forkd1 " + x + " ready 73"), wants: wanted{x: ready(73)}},
		"a small change of weight":  {servers: pool("forkd1 " + x + " ready 73"), wants: wanted{x: ready(69)}},
		"a change of weight":        {servers: pool("forkd1 " + x + " ready 73"), wants: wanted{x: ready(68)}, want: "set server b/forkd1 weight 68;"},
		"no weight at all":          {servers: pool("forkd1 " + x + " ready 0"), wants: wanted{x: ready(1)}, want: "set server b/forkd1 weight 1;"},
		"drain":                     {servers: pool("forkd1 " + x + " ready 73"), wants: wanted{x: {state: Drain}}, want: "set server b/forkd1 state drain;"},
		"drained":                   {servers: pool("forkd1 " + x + " drain 73"), wants: wanted{x: {state: Drain}}},
		"drains as it comes":        {servers: never, wants: wanted{x: {state: Drain}}},
		"drains while it is free":   {servers: pool("forkd1 " + x + " maint 73"), wants: wanted{x: {state: Drain}}},
		"resumed":                   {servers: pool("forkd1 " + x + " drain 73"), wants: wanted{x: ready(90)}, want: "set server b/forkd1 weight 90;set server b/forkd1 state ready;"},
		"not to be trusted":         {servers: pool("forkd1 " + x + " ready 73"), wants: wanted{x: {}}, gone: x},
		"not to be trusted, new":    {servers: never, wants: wanted{x: {}}},
		"silent":                    {servers: pool("forkd1 " + x + " ready 73"), wants: wanted{x: {state: Drain, silent: true}}},
		"silent for long":           {servers: pool("forkd1 " + x + " ready 73"), wants: wanted{x: {state: Drain, silent: true}}, gone: x, want: "set server b/forkd1 state drain;"},
		"vanished":                  {servers: pool("forkd1 "+x+" ready 73", "forkd2 "+y+" drain 73")},
		"vanished for long":         {servers: pool("forkd1 "+x+" ready 73", "forkd2 "+y+" drain 73"), gone: x + y, want: "set server b/forkd1 state maint;\nset server b/forkd2 state maint;"},
		"returns":                   {servers: pool("forkd1 "+y+" maint 73", "forkd2 "+x+" maint 73"), wants: wanted{x: ready(73)}, want: "set server b/forkd2 state ready;"},
		"not disabled":              {servers: pool("forkd1 0.0.0.0:1 ready 100"), want: "set server b/forkd1 state maint;"},
		"two servers of a host":     {servers: pool("forkd1 "+x+" maint 73", "forkd2 "+x+" ready 73", "forkd3 "+x+" ready 73"), wants: wanted{x: ready(73)}, want: "set server b/forkd3 state maint;"},
		"the longest free is first": {servers: pool("forkd1 "+x+" maint 100", "forkd2 "+y+" maint 100"), wants: wanted{z: ready(100)}, want: "set server b/forkd2 addr 10.0.0.3 port 80;set server b/forkd2 state ready;"},
		"a new one before that":     {servers: pool("forkd1 0.0.0.0:1 maint 100", "forkd2 "+y+" maint 100"), wants: wanted{z: ready(100)}, want: "set server b/forkd1 addr 10.0.0.3 port 80;set server b/forkd1 state ready;"},
		"a place that a host has":   {servers: pool("forkd1 " + x + " maint 100"), wants: wanted{x: {}, y: ready(100)}, homeless: 1},
	} {
		wants := map[netip.AddrPort]want{}
		for addr, w := range c.wants {
			wants[at(addr)] = w
		}
		changes, homeless := plan(c.servers, wants, func(a netip.AddrPort) bool { return strings.Contains(c.gone, a.String()) })
		var got []string
		for _, change := range changes {
			got = append(got, change.commands("b"))
		}
		if text := strings.Join(got, "\n"); text != c.want || len(homeless) != c.homeless {
			t.Errorf("%s:\n%s\n%d without a server; want\n%s\n%d", name, text, len(homeless), c.want, c.homeless)
		}
	}
}

func TestWeightIsNeverNothing(t *testing.T) {
	for _, c := range []struct{ initial, percent, want int }{{100, 73, 73}, {1, 1, 1}, {256, 100, 256}, {10, 3, 1}, {0, 100, 0}, {256, 50, 128}} {
		if got := (server{initial: c.initial}).target(c.percent); got != c.want {
			t.Errorf("%d %% of %d: %d, want %d", c.percent, c.initial, got, c.want)
		}
	}
}

// What a stranger writes to Redis is an address of one host, or nothing.
func TestAddress(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1:80":               "10.0.0.1:80",
		"tcp://10.0.0.1:80":         "10.0.0.1:80",
		"tcp6://[2001:db8::1]:80":   "[2001:db8::1]:80",
		"[::ffff:10.0.0.1]:80":      "10.0.0.1:80",
		"":                          "",
		"10.0.0.1":                  "",
		"10.0.0.1:0":                "",
		"10.0.0.1:80 port 1":        "",
		"10.0.0.1:80;shutdown":      "",
		"10.0.0.1:80\nquit":         "",
		"shop.example:80":           "",
		"[fe80::1%eth0]:80":         "",
		"[fe80::1%;quit]:80":        "",
		"0.0.0.0:80":                "",
		"[::]:80":                   "",
		"[::ffff:0.0.0.0]:80":       "",
		"tcp://:80":                 "",
		"224.0.0.1:80":              "",
		"255.255.255.255:80":        "",
		"/run/shop.sock":            "",
		"unix:///run/shop.sock":     "",
		"10.0.0.1:99999":            "",
		"tcp://tcp://10.0.0.1:80":   "",
		strings.Repeat("1", 1<<20):  "",
		"10.0.0.1:80 10.0.0.2:8080": "",
	} {
		got, outside := new(Sync).address([]string{text})
		if got.IsValid() != (want != "") || got.IsValid() && got.String() != want || outside.IsValid() {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	several := []string{"tcp://:80", "10.0.0.1:81", "10.0.0.2:80", "192.168.0.1"}
	for want, s := range map[string]Sync{
		"10.0.0.1:81":    {},
		"10.0.0.2:80":    {Port: 80},
		"192.168.0.1:80": {Port: 80, Networks: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}},
		"192.168.0.1:9":  {Port: 9},
	} {
		if got, _ := s.address(several); got.String() != want {
			t.Errorf("%v: want %s", got, want)
		}
	}
	elsewhere := Sync{Networks: []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}}
	_, wrong := elsewhere.wants(&fleet.Fleet{Hosts: []fleet.Host{{ID: "a", Addresses: several}}})
	if want := "a reports 10.0.0.1:81, which is in no --network"; len(wrong) != 1 || wrong[0] != want {
		t.Errorf("%q, want %q", wrong, want)
	}
}

func TestWants(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	host := func(id, addr string, change func(h *fleet.Host)) fleet.Host {
		h := fleet.Host{ID: id, Addresses: []string{addr}, State: "ready", Ready: n(4), Wanted: n(4), Connections: n(27), Capacity: n(100)}
		change(&h)
		return h
	}
	for name, c := range map[string]struct {
		change func(h *fleet.Host)
		want   string // state, silent, weight
		wrong  string
	}{
		"ready":           {func(*fleet.Host) {}, "ready false 73", ""},
		"half":            {func(h *fleet.Host) { h.Ready = n(2) }, "ready false 23", ""},
		"full":            {func(h *fleet.Host) { h.Connections = n(1 << 53) }, "ready false 1", ""},
		"nothing known":   {func(h *fleet.Host) { h.Ready, h.Capacity = nil, nil }, "ready false 100", ""},
		"none is ready":   {func(h *fleet.Host) { h.Ready = n(0) }, "drain false 0", ""},
		"none is wanted":  {func(h *fleet.Host) { h.Wanted = n(0) }, "drain false 0", ""},
		"drains":          {func(h *fleet.Host) { h.State = "draining" }, "drain false 0", ""},
		"stops":           {func(h *fleet.Host) { h.State = "stopping" }, "drain false 0", ""},
		"starts":          {func(h *fleet.Host) { h.State = "starting" }, "drain false 0", ""},
		"silent":          {func(h *fleet.Host) { h.Stale = true }, "drain true 0", ""},
		"wrong":           {func(h *fleet.Host) { h.Problem = "x" }, " false 0", ""},
		"two of one id":   {func(h *fleet.Host) { h.Twin = "x" }, " false 0", ""},
		"of no state":     {func(h *fleet.Host) { h.State = "" }, " false 0", ""},
		"vanished":        {func(h *fleet.Host) { h.Vanished = true }, "", ""},
		"without address": {func(h *fleet.Host) { h.Addresses = nil }, "", `a reports no address that can be used: set redis.advertise = ["IP:PORT"] there`},
	} {
		wants, wrong := new(Sync).wants(&fleet.Fleet{Hosts: []fleet.Host{host("a", "10.0.0.1:80", c.change)}})
		got := ""
		if w, ok := wants[at("10.0.0.1:80")]; ok {
			got = fmt.Sprintf("%s %v %d", w.state, w.silent, w.weight)
		}
		if got != c.want || strings.Join(wrong, "|") != c.wrong {
			t.Errorf("%s: %q, %q", name, got, wrong)
		}
	}
	// One that is there no more is not in the way of its successor.
	silent := host("a", "10.0.0.1:80", func(h *fleet.Host) { h.Stale = true })
	hosts := []fleet.Host{silent, host("b", "10.0.0.1:80", func(*fleet.Host) {})}
	for range 2 {
		wants, wrong := new(Sync).wants(&fleet.Fleet{Hosts: hosts})
		if got := wants[at("10.0.0.1:80")]; got.host != "b" || len(wrong) != 1 {
			t.Errorf("%+v, %q", got, wrong)
		}
		slices.Reverse(hosts)
	}
}
