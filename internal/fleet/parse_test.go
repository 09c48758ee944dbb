package fleet

import (
	"encoding/json"
	"fmt"
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
		got, err := new(parser).columns(text)
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
			{PID: 11, Generation: 2, State: "ready", CPUPercent: new(12.34), RSSBytes: new(int64(4096))},
		}},
		{Slot: 1, State: "backoff", Restarts: 9},
	}
	got, err := new(parser).columns(string(appendColumns(nil, slots)))
	want := []Worker{
		{Slot: 0, PID: new(int64(10)), Generation: new(int64(1)), State: "draining", Connections: new(int64(3)), Restarts: new(int64(2))},
		{Slot: 0, PID: new(int64(11)), Generation: new(int64(2)), State: "ready", CPUPercent: new(12.3), RSSBytes: new(int64(4096)), Restarts: new(int64(2))},
		{Slot: 1, State: "backoff", Restarts: new(int64(9))},
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
}

func TestParseWrong(t *testing.T) {
	t.Parallel()
	many := strings.TrimSuffix(strings.Repeat("1,", mostRows+1), ",")
	for text, want := range map[string]string{
		"":                                "byte 0: an object of columns is expected, there is nothing",
		"[]":                              `byte 0: an object of columns is expected, there is "[]"`,
		`{"slot":[0],"state":["ready"]`:   "byte 29: a comma is expected, there is nothing",
		`{"slot":[0]}x`:                   `byte 12: the end is expected, there is "x"`,
		`{"slot":[0]}`:                    "there is no column state",
		`{"state":["ready"]}`:             "there is no column slot",
		`{"slot":[0],"slot":[1]}`:         "column slot is there twice",
		`{"slot":[0,1],"state":["a"]}`:    "column state has 1 rows, slot has 2",
		`{"slot":[null],"state":["a"]}`:   "column slot, row 0: there is none",
		`{"slot":[0],"state":[1]}`:        `column state, row 0: "1]}" is not a state`,
		`{"slot":["0"],"state":["a"]}`:    `column slot, row 0: "\"0\"],\"state\":[\"a\"]}" is not a number`,
		`{"slot":[-1],"state":["a"]}`:     `column slot, row 0: "-1" is not a whole number from 0 to 2^53`,
		`{"slot":[1.5],"state":["a"]}`:    `column slot, row 0: "1.5" is not a whole number from 0 to 2^53`,
		`{"slot":[1e3],"state":["a"]}`:    `column slot, row 0: "1e3" is not a whole number from 0 to 2^53`,
		`{"slot":[01],"state":["a"]}`:     `byte 9: a number without leading zeros is expected, there is "01],\"state\":[\"a\"]}"`,
		`{"slot":[9007199254740993]}`:     `column slot, row 0: "9007199254740993" is not a whole number from 0 to 2^53`,
		`{"slot":[99999999999999999999]}`: `column slot, row 0: "99999999999999999999" is not a whole number from 0 to 2^53`,
		`{"cpu_percent":[1e999]}`:         `column cpu_percent, row 0: "1e999" is no share of a processor`,
		`{"cpu_percent":[-1]}`:            `column cpu_percent, row 0: "-1" is no share of a processor`,
		`{"cpu_percent":[NaN]}`:           `byte 16: a number is expected, there is "NaN]}"`,
		`{"state":["\u001b[2J"]}`:         `column state, row 0: "\x1b[2J" is not a state`,
		"{\"state\":[\"\x1b[2J\"]}":       `byte 11: no control character in a string is expected, there is "\x1b[2J\"]}"`,
		`{"state":["` + "\xff" + `"]}`:    `column state, row 0: "\xff" is not a state`,
		`{"state":["\`:                    "byte 12: the end of a string is expected, there is nothing",
		`{"state":["\x"]}`:                `byte 10: a string is expected, there is "\"\\x\"]}"`,
		`{"x":` + strings.Repeat("[", 99): "nested deeper than 8",
		`{"slot":[` + many + `]}`:         "column slot, row 4096: at most 4096 rows are read",
		strings.Repeat(" ", 1<<20+1):      "1048577 bytes: at most 1048576 are read",
		`{"slot":{"a":1}}`:                `byte 8: an array is expected, there is "{\"a\":1}}"`,
		`{"slot" [0]}`:                    `byte 8: a colon is expected, there is "[0]}"`,
	} {
		got, err := new(parser).columns(text)
		if err == nil || err.Error() != want || got != nil {
			t.Errorf("%.60q: %v, not %s", text, err, want)
		}
	}
}

// A parser keeps nothing of the host before.
func TestParseAnew(t *testing.T) {
	t.Parallel()
	var p parser
	first, _ := p.columns(`{"slot":[0,1],"state":["a","b"],"pid":[1,2],"cpu_percent":[1,2]}`)
	if _, err := p.columns(`{"slot":[5],"state":["c"],"pid":[`); err == nil {
		t.Error("half an object is read")
	}
	second, err := p.columns(`{"slot":[3],"state":["c"]}`)
	if d := cmp.Diff([]Worker{{Slot: 3, State: "c"}}, second); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	if *first[1].PID != 2 || first[1].State != "b" || *first[0].CPUPercent != 1 {
		t.Errorf("the rows of another host have changed: %+v", first)
	}
}

// FuzzColumns: what is read is what encoding/json reads; what it can't read is not
// read; and errors are short and printable.
func FuzzColumns(f *testing.F) {
	for _, seed := range []string{
		"", "{}", `{"slot":[0],"state":["ready"]}`, `{"slot":[0,1],"state":["ready","x"],"pid":[1,null],"cpu_percent":[0.5,1e2]}`,
		`{"slot":[0],"state":["\u0041\n"],"x":[[[{"y":true}]]]}`, `{"rss_bytes":[9007199254740993]}`,
		string(appendColumns(nil, []control.Slot{{Slot: 1, State: "backoff"}, {Slot: 2, Workers: []control.Worker{{PID: 3, State: "ready"}}}})),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		workers, err := new(parser).columns(text)
		if err != nil {
			if s := err.Error(); len(s) > 400 || !printable(s) {
				t.Errorf("%q", s)
			}
			if workers != nil {
				t.Errorf("%v, and %d workers", err, len(workers))
			}
			return
		}
		var whole map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &whole); err != nil {
			t.Fatalf("%q is read, and is no JSON: %v", text, err)
		}
		var columns struct {
			Slot  []int64  `json:"slot"`
			PID   []*int64 `json:"pid"`
			State []string `json:"state"`
			CPU   []any    `json:"cpu_percent"`
		}
		for name, into := range map[string]any{"slot": &columns.Slot, "pid": &columns.PID, "state": &columns.State, "cpu_percent": &columns.CPU} {
			if raw, there := whole[name]; there {
				if err := json.Unmarshal(raw, into); err != nil {
					t.Fatalf("%q is read, and its %s is wrong: %v", text, name, err)
				}
			}
		}
		if len(columns.Slot) != len(workers) {
			t.Fatalf("%q: %d workers", text, len(workers))
		}
		for i, w := range workers {
			if w.Slot != columns.Slot[i] || w.State != columns.State[i] {
				t.Errorf("%q: %+v", text, w)
			}
			if columns.PID != nil && fmt.Sprint(deref(w.PID)) != fmt.Sprint(deref(columns.PID[i])) {
				t.Errorf("%q: %+v", text, w)
			}
		}
	})
}

func deref(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}
