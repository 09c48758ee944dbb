package fleet

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func noon() time.Time { return time.UnixMilli(1_800_000_000_000).UTC() }

// fields are values of HMGET: those of a good hash, with some changed, by name.
func fields(changed map[string]string) []string {
	good := map[string]string{
		"schema": "1", "host": "web-1", "boot": "b1", "addresses": `["tcp://:80"]`, "state": "ready", "version": "v1",
		"generation": "3", "wanted": "2", "ready": "1", "connections": "30", "capacity": "40", "accepted": "500", "requests": "600",
		"refused": "0", "restarts": "7", "queue": "1", "cpu_percent": "12.5", "rss_bytes": "4096",
		"started_at": fmt.Sprint(noon().Add(-time.Hour).UnixMilli()), "updated_at": fmt.Sprint(noon().Add(-time.Second).UnixMilli()),
		"interval_ms": "2000", "seq": "9", "metrics": ":9640", "control": "1", "moved": "12", "workers": `{"slot":[0],"pid":[5],"state":["ready"]}`,
	}
	maps.Copy(good, changed)
	names := fieldNames(true)
	values := make([]string, len(names))
	for i, name := range names {
		values[i] = good[name]
	}
	return values
}

func TestHost(t *testing.T) {
	t.Parallel()
	n := func(v int64) *int64 { return &v }
	want := Host{
		ID: "web-1", Boot: "b1", Addresses: []string{"tcp://:80"}, Metrics: ":9640", Moved: n(12), State: "ready", Version: "v1", Generation: n(3), Wanted: n(2), Ready: n(1),
		Connections: n(30), Capacity: n(40), Utilization: new(75.0), Accepted: n(500), Requests: n(600), Refused: n(0), Restarts: n(7), Queue: n(1),
		CPUPercent: new(12.5), RSSBytes: n(4096), StartedAt: new(noon().Add(-time.Hour)), UpdatedAt: new(noon().Add(-time.Second)),
		Age: new(1.0), Interval: new(2.0), Seq: n(9), Control: new(true), Workers: []Worker{{Slot: 0, PID: n(5), State: "ready"}},
	}
	if d := cmp.Diff(want, parseHost("web-1", fields(nil), noon(), noon().Add(time.Second))); d != "" {
		t.Error(d)
	}
	for name, c := range map[string]struct {
		changed map[string]string
		check   func(h Host) bool
	}{
		"figures that are not known": {map[string]string{"connections": "", "refused": "", "cpu_percent": ""}, func(h Host) bool {
			return h.Connections == nil && h.Utilization == nil && h.Refused == nil && h.CPUPercent == nil
		}},
		"no capacity":                  {map[string]string{"capacity": "0"}, func(h Host) bool { return h.Capacity == nil && h.Utilization == nil }},
		"a twin":                       {map[string]string{"twin": "b2"}, func(h Host) bool { return h.Twin == "b2" }},
		"a beat late":                  {map[string]string{"updated_at": fmt.Sprint(noon().Add(-5 * time.Second).UnixMilli())}, func(h Host) bool { return !h.Stale }},
		"two beats late":               {map[string]string{"updated_at": fmt.Sprint(noon().Add(-5001 * time.Millisecond).UnixMilli())}, func(h Host) bool { return h.Stale }},
		"late by its own interval":     {map[string]string{"updated_at": fmt.Sprint(noon().Add(-2 * time.Second).UnixMilli()), "interval_ms": "100"}, func(h Host) bool { return h.Stale }},
		"updated by a clock ahead":     {map[string]string{"updated_at": fmt.Sprint(noon().Add(time.Second).UnixMilli())}, func(h Host) bool { return *h.Age == 0 && !h.Stale }},
		"updated a year ago":           {map[string]string{"updated_at": fmt.Sprint(noon().AddDate(-1, 0, 0).UnixMilli())}, func(h Host) bool { return h.Stale && *h.Age == 365*86400 }},
		"started by a clock far ahead": {map[string]string{"started_at": fmt.Sprint(noon().AddDate(1, 0, 0).UnixMilli())}, func(h Host) bool { return h.StartedAt == nil }},
		"started at no time":           {map[string]string{"started_at": fmt.Sprint(int64(1) << 53)}, func(h Host) bool { return h.StartedAt == nil }},
		"no commands":                  {map[string]string{"control": "0"}, func(h Host) bool { return h.Control != nil && !*h.Control }},
		"commands not known":           {map[string]string{"control": ""}, func(h Host) bool { return h.Control == nil }},
		"an older forkd":               {map[string]string{"control": "", "metrics": "", "moved": ""}, func(h Host) bool { return h.Control == nil && h.Metrics == "" && h.Moved == nil }},
		"no interval":                  {map[string]string{"interval_ms": ""}, func(h Host) bool { return h.Interval == nil && !h.Stale }},
	} {
		h := parseHost("web-1", fields(c.changed), noon(), noon().Add(time.Second))
		if h.Problem != "" || h.Vanished || !c.check(h) {
			t.Errorf("%s: %+v", name, h)
		}
	}
	gone := parseHost("web-1", make([]string, len(fieldNames(true))), noon(), noon().Add(time.Second))
	if d := cmp.Diff(Host{ID: "web-1", Vanished: true}, gone); d != "" {
		t.Error(d)
	}
	if h := parseHost("web-1", fields(nil), noon(), noon()); !h.Vanished || h.Problem != "" || h.State != "ready" {
		t.Errorf("expired: %+v", h)
	}
}

func TestHostWrong(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	for _, c := range []struct{ field, value, want string }{
		{"schema", "", "it doesn't say its schema: this forkd reads 1"},
		{"schema", "2", `speaks schema "2": this forkd reads 1`},
		{"schema", "1\x1b[2J", `speaks schema "1\x1b[2J": this forkd reads 1`},
		{"host", "web-2", `calls itself "web-2"`},
		{"boot", "\x1b]0;owned\a", `boot: "\x1b]0;owned\a" cannot be shown`},
		{"version", long, `version: "` + long[:40] + `"... (300 bytes) cannot be shown`},
		{"version", "\u202eevil", `version: "\u202eevil" cannot be shown`},
		{"version", "\xff", `version: "\xff" cannot be shown`},
		{"state", "dancing", `state "dancing" is not known`},
		{"state", "backoff", `state "backoff" is not known`}, // a slot's
		{"addresses", "tcp://:80", `addresses: "tcp://:80" is no JSON list of strings of at most 8192 bytes`},
		{"addresses", "null, null", `addresses: "null, null" is no JSON list of strings of at most 8192 bytes`},
		{"addresses", `["` + strings.Repeat("a", 9000) + `"]`, `addresses: "[\"` + strings.Repeat("a", 38) + `"... (9004 bytes) is no JSON list of strings of at most 8192 bytes`},
		{"addresses", `["\u001b[2J"]`, `addresses: "\x1b[2J" is none`},
		{"addresses", "[" + strings.Repeat(`"a",`, 64) + `"a"]`, "addresses: 65, at most 64 are shown"},
		{"connections", "-1", `connections: "-1" is not a whole number from 0 to 2^53`},
		{"connections", "9007199254740993", `connections: "9007199254740993" is not a whole number from 0 to 2^53`},
		{"connections", "1e3", `connections: "1e3" is not a whole number from 0 to 2^53`},
		{"connections", " 1", `connections: " 1" is not a whole number from 0 to 2^53`},
		{"connections", "007", `connections: "007" is not a whole number from 0 to 2^53`},
		{"connections", strings.Repeat("9", 1000), `connections: "` + strings.Repeat("9", 40) + `"... (1000 bytes) is not a whole number from 0 to 2^53`},
		{"metrics", "\x1b[2J", `metrics: "\x1b[2J" cannot be shown`},
		{"moved", "-1", `moved: "-1" is not a whole number from 0 to 2^53`},
		{"control", "true", `control: "true" is not 0 or 1`},
		{"cpu_percent", "NaN", `cpu_percent: "NaN" is no share of a processor`},
		{"cpu_percent", "-1", `cpu_percent: "-1" is no share of a processor`},
		{"cpu_percent", "1e300", `cpu_percent: "1e300" is no share of a processor`},
		{"interval_ms", "1", "interval_ms 1 is not from 100 to 3600000"},
		{"interval_ms", "9007199254740992", "interval_ms 9007199254740992 is not from 100 to 3600000"},
		{"updated_at", "", "it doesn't say when it was updated"},
		{"updated_at", "now", `updated_at: "now" is not a whole number from 0 to 2^53`},
		{"updated_at", fmt.Sprint(noon().AddDate(1, 0, 0).UnixMilli()), "updated_at is 8760h0m0s ahead of Redis's clock"},
		{"updated_at", fmt.Sprint(noon().Add(2 * time.Minute).UnixMilli()), "updated_at is 2m0s ahead of Redis's clock"},
		{"workers", `{"slot":[1],"state":[]}`, "workers: column state has 0 rows, slot has 1"},
		{"workers", "x", "workers: no JSON object of columns: invalid character 'x' looking for beginning of value"},
	} {
		h := parseHost("web-1", fields(map[string]string{c.field: c.value}), noon(), noon().Add(time.Second))
		if h.Problem != c.want || !printable(h.Problem) {
			t.Errorf("%s %.40q: %q", c.field, c.value, h.Problem)
		}
		if c.field != "schema" && (h.Requests == nil || *h.Requests != 600) {
			t.Errorf("%s %.40q: the rest is not shown: %+v", c.field, c.value, h)
		}
	}
	h := parseHost("web-1", fields(map[string]string{"connections": "x", "queue": "y", "seq": "z", "boot": "\x1b", "state": "?"}), noon(), noon().Add(time.Second))
	if strings.Count(h.Problem, ";") != 4 {
		t.Error(h.Problem)
	}
}

func TestTotals(t *testing.T) {
	t.Parallel()
	n := func(v int64) *int64 { return &v }
	good := Host{State: "ready", Wanted: n(4), Ready: n(3), Generation: n(2), Connections: n(10), Capacity: n(40)}
	older, stale, starting, wrong, gone, twin := good, good, Host{State: "starting", Wanted: n(4)}, good, good, good
	older.Generation, older.State = n(1), "draining"
	stale.Stale = true
	wrong.Problem, wrong.Connections = "speaks schema 2", n(1<<53)
	gone.Vanished = true
	twin.Twin = "b"
	got := SumUp([]Host{good, older, stale, starting, wrong, gone, twin})
	want := Totals{
		Hosts: 7, Serving: 2, Stale: 1, Vanished: 1, Problems: 1, Twins: 1, Wanted: 20, Ready: 12,
		Connections: n(40), Capacity: n(160), Utilization: new(25.0), Generations: []int64{1, 2},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	uncounted := good
	uncounted.Connections = nil
	got = SumUp([]Host{good, uncounted})
	if got.Connections != nil || *got.Capacity != 80 || *got.Utilization != 25 {
		t.Errorf("%+v", got)
	}
	got = SumUp(nil)
	if d := cmp.Diff(Totals{Generations: []int64{}}, got); d != "" {
		t.Error(d)
	}
	huge := good
	huge.Connections, huge.Capacity, huge.Wanted, huge.Ready = n(mostNumber), n(mostNumber/2), n(mostNumber), n(mostNumber)
	got = SumUp(slices.Repeat([]Host{huge}, 5000))
	want = Totals{
		Hosts: 5000, Serving: 5000, Wanted: mostNumber, Ready: mostNumber,
		Connections: n(mostNumber), Capacity: n(mostNumber), Utilization: new(200.0), Generations: []int64{2},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// FuzzHost: whatever the values are, a host is made of them that JSON can carry,
// with figures within their bounds and text that can be printed.
func FuzzHost(f *testing.F) {
	for _, v := range []string{"", "1", "-1", "x", "\x1b[2J", "9007199254740993", "1.5", `["a"]`, `{"slot":[0],"state":["ready"]}`, "ready", strings.Repeat("9", 300)} {
		for _, field := range []string{"state", "addresses", "connections", "cpu_percent", "updated_at", "workers"} {
			at := uint8(slices.Index(fieldNames(true), field))
			f.Add(at, v, at+1, v)
		}
	}
	f.Fuzz(func(t *testing.T, field uint8, value string, other uint8, more string) {
		names := fieldNames(true)
		values := fields(map[string]string{names[int(field)%len(names)]: value, names[int(other)%len(names)]: more})
		h := parseHost("web-1", values, noon(), noon().Add(time.Second))
		if _, err := json.Marshal(h); err != nil {
			t.Errorf("%+v: %v", h, err)
		}
		for _, text := range append([]string{h.Problem, h.Boot, h.Twin, h.State, h.Version}, h.Addresses...) {
			if !printable(text) || len(text) > 2000 {
				t.Errorf("%q", text)
			}
		}
		for _, n := range []*int64{h.Generation, h.Wanted, h.Ready, h.Connections, h.Capacity, h.Accepted, h.Requests, h.Refused, h.Restarts, h.Queue, h.RSSBytes, h.Seq} {
			if n != nil && (*n < 0 || *n > mostNumber) {
				t.Errorf("%d", *n)
			}
		}
		if h.Age != nil && *h.Age < 0 || len(h.Workers) > mostRows || len(h.Addresses) > mostAddresses {
			t.Errorf("%+v", h)
		}
		if all := SumUp([]Host{h}); h.Problem != "" && (all.Connections != nil || all.Serving != 0) {
			t.Errorf("%+v", all)
		}
	})
}
