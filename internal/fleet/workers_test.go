package fleet

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/control"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]Worker{
		`{}`:                         nil,
		" {\n}\t":                    nil,
		`{"slot":[],"state":[]}`:     {},
		`{"later":[1,{"a":[null]}]}`: nil,
		`{"slot":[0,7],"pid":[ 12 , null ],"state":["ready","new\u0041ge"],"cpu_percent":[1.5e1,-0],"rss_bytes":[9007199254740992,0],` +
			`"more":{"x":"\u001b"}}`: {
			{Slot: 0, PID: new(int64(12)), State: "ready", CPUPercent: new(15.0), RSSBytes: new(int64(1) << 53)},
			{Slot: 7, State: "newAge", CPUPercent: new(0.0), RSSBytes: new(int64(0))},
		},
	} {
		got, err := parseWorkers(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
}

// What the reporter writes is what the reader reads.
func TestParseOfReporter(t *testing.T) {
	t.Parallel()
	slots := []control.Slot{
		{Slot: 0, State: "ready", Restarts: 2, Workers: []control.Worker{
			{PID: 10, Generation: 1, State: "draining", Connections: new(int64(3))},
			{PID: 11, Generation: 2, State: "ready", Stalled: true, CPUPercent: new(12.34), RSSBytes: new(int64(4096))},
		}},
		{Slot: 1, State: "backoff", Restarts: 9},
	}
	got, err := parseWorkers(string(appendColumns(nil, slots)))
	want := []Worker{
		{Slot: 0, PID: new(int64(10)), Generation: new(int64(1)), State: "draining", Connections: new(int64(3)), Restarts: new(int64(2))},
		{Slot: 0, PID: new(int64(11)), Generation: new(int64(2)), State: "ready", Stalled: true, CPUPercent: new(12.3), RSSBytes: new(int64(4096)), Restarts: new(int64(2))},
		{Slot: 1, State: "backoff", Restarts: new(int64(9))},
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	slots[0].Workers[1].Stalled = false
	if text := string(appendColumns(nil, slots)); strings.Contains(text, "stalled") {
		t.Errorf("none is stalled: %s", text)
	}
}

func TestParseWrong(t *testing.T) {
	t.Parallel()
	many := strings.TrimSuffix(strings.Repeat("1,", mostRows+1), ",")
	for text, want := range map[string]string{
		"":                              "no JSON object of columns: unexpected end of JSON input",
		"[]":                            "no JSON object of columns: json: cannot unmarshal array into Go value of type fleet.columns",
		`{"slot":[0],"state":["ready"]`: "no JSON object of columns: unexpected end of JSON input",
		`{"slot":[0]}x`:                 "no JSON object of columns: invalid character 'x' after top-level value",
		`{"slot":[0]}`:                  "column state has 0 rows, slot has 1",
		`{"state":["ready"]}`:           "column state has 1 rows, slot has 0",
		`{"pid":[1]}`:                   "column pid has 1 rows, slot has 0",
		`{"cpu_percent":[1]}`:           "column cpu_percent has 1 rows, slot has 0",
		`{"slot":[0,1],"state":["a"]}`:  "column state has 1 rows, slot has 2",
		`{"slot":[0],"state":["a"],"stalled":[]}`:                  "column stalled has 0 rows, slot has 1",
		`{"slot":[0],"state":["a"],"stalled":[1]}`:                 "column stalled cannot hold this: number",
		`{"slot":[null],"state":["a"]}`:                            "column slot, row 0: there is none",
		`{"slot":[0],"state":[1]}`:                                 "column state cannot hold this: number",
		`{"slot":["0"],"state":["a"]}`:                             "column slot cannot hold this: string",
		`{"slot":[-1],"state":["a"]}`:                              "column slot, row 0: -1 is not a whole number from 0 to 2^53",
		`{"slot":[1.5],"state":["a"]}`:                             "column slot cannot hold this: number 1.5",
		`{"slot":[1e3],"state":["a"]}`:                             "column slot cannot hold this: number 1e3",
		`{"slot":[01],"state":["a"]}`:                              "no JSON object of columns: invalid character '1' after array element",
		`{"slot":[9007199254740993],"state":["a"]}`:                "column slot, row 0: 9007199254740993 is not a whole number from 0 to 2^53",
		`{"slot":[99999999999999999999]}`:                          "column slot cannot hold this: number 99999999999999999999",
		`{"slot":[` + strings.Repeat("9", 1000) + `]}`:             "column slot cannot hold this: number " + strings.Repeat("9", 293),
		`{"slot":[0],"state":["a"],"cpu_percent":[1e999]}`:         "column cpu_percent cannot hold this: number 1e999",
		`{"slot":[0],"state":["a"],"cpu_percent":[-1]}`:            "column cpu_percent, row 0: -1 is no share of a processor",
		`{"cpu_percent":[NaN]}`:                                    "no JSON object of columns: invalid character 'N' looking for beginning of value",
		`{"slot":[0],"state":["\u001b[2J"]}`:                       `column state, row 0: "\x1b[2J" is not a state`,
		"{\"state\":[\"\x1b[2J\"]}":                                `no JSON object of columns: invalid character '\x1b' in string literal`,
		`{"slot":[0],"state":["` + "\xff" + `"]}`:                  `column state, row 0: "\ufffd" is not a state`,
		`{"slot":[0],"state":["` + strings.Repeat("a", 65) + `"]}`: `column state, row 0: "` + strings.Repeat("a", 40) + `"... (65 bytes) is not a state`,
		`{"x":` + strings.Repeat("[", 10_001):                      "no JSON object of columns: invalid character '[' exceeded max depth",
		`{"slot":[` + many + `]}`:                                  "4097 rows: at most 4096 are read",
		strings.Repeat(" ", 1<<20+1):                               "1048577 bytes: at most 1048576 are read",
		`{"slot":{"a":1}}`:                                         "column slot cannot hold this: object",
	} {
		got, err := parseWorkers(text)
		if err == nil || err.Error() != want || got != nil {
			t.Errorf("%.60q: %v, not %s", text, err, want)
		}
	}
}

// FuzzColumns: what is read is within its bounds, and what the reporter would have
// written; errors are short and printable.
func FuzzColumns(f *testing.F) {
	for _, seed := range []string{
		"", "{}", `{"slot":[0],"state":["ready"]}`, `{"slot":[0,1],"state":["ready","x"],"pid":[1,null],"cpu_percent":[0.5,1e2]}`,
		`{"slot":[0],"state":["\u0041\n"],"x":[[[{"y":true}]]]}`, `{"rss_bytes":[9007199254740993]}`,
		string(appendColumns(nil, []control.Slot{{Slot: 1, State: "backoff"}, {Slot: 2, Workers: []control.Worker{{PID: 3, State: "ready"}}}})),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		workers, err := parseWorkers(text)
		if err != nil {
			if s := err.Error(); len(s) > 400 || !printable(s) {
				t.Errorf("%q", s)
			}
			if workers != nil {
				t.Errorf("%v, and %d workers", err, len(workers))
			}
			return
		}
		if len(workers) > mostRows {
			t.Errorf("%d rows", len(workers))
		}
		var slots []control.Slot
		for _, w := range workers {
			for _, n := range []*int64{&w.Slot, w.PID, w.Generation, w.Connections, w.Accepted, w.Requests, w.Queue, w.RSSBytes, w.Restarts} {
				if n != nil && (*n < 0 || *n > mostNumber) {
					t.Errorf("%q: %+v", text, w)
				}
			}
			if p := w.CPUPercent; p != nil && !(*p >= 0 && *p <= mostPercent) || !printable(w.State) || len(w.State) > mostWord {
				t.Errorf("%q: %+v", text, w)
			}
			slots = append(slots, control.Slot{Slot: int(w.Slot), Workers: []control.Worker{{State: w.State, Connections: w.Connections, RSSBytes: w.RSSBytes}}})
		}
		again, err := parseWorkers(string(appendColumns(nil, slots)))
		if err != nil || len(again) != len(workers) {
			t.Fatalf("%q: %v, %d workers of %d", text, err, len(again), len(workers))
		}
		for i, w := range workers {
			if w.Slot != again[i].Slot || w.State != again[i].State || cmp.Diff(w.Connections, again[i].Connections) != "" || cmp.Diff(w.RSSBytes, again[i].RSSBytes) != "" {
				t.Errorf("%q: %+v, then %+v", text, w, again[i])
			}
		}
	})
}
