package ipc

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// golden is what goes over the wire, for ever: workers in other languages are
// written from it.
func golden() []sample {
	return []sample{
		{Hello{Version: 1}, `{"cmd":"FORKD_HELLO","version":1}`},
		{Hello{Version: 1, Handoff: true}, `{"cmd":"FORKD_HELLO","version":1,"handoff":true}`},
		{Handoff{Role: RoleFrom}, `{"cmd":"FORKD_HANDOFF","role":"from"}`},
		{Ready{}, `{"cmd":"FORKD_READY"}`},
		{Pulse{}, `{"cmd":"FORKD_PULSE"}`},
		{
			Drain{Reason: "stop", Deadline: time.Date(2026, 11, 21, 6, 30, 0, 5e8, time.UTC), Idle: 0},
			`{"cmd":"FORKD_DRAIN","reason":"stop","deadline":"2026-11-21T06:30:00.5Z","idle":0}`,
		},
		{
			Drain{Reason: "roll", Deadline: time.Date(2026, 11, 21, 6, 30, 0, 0, time.UTC), Idle: 1500 * time.Millisecond},
			`{"cmd":"FORKD_DRAIN","reason":"roll","deadline":"2026-11-21T06:30:00Z","idle":1.5}`,
		},
		{Shed{Count: 20, Over: 2 * time.Second}, `{"cmd":"FORKD_SHED","count":20,"seconds":2}`},
		{Reserved{Cmd: "NODE_HANDLE"}, `{"cmd":"NODE_HANDLE"}`},
		{App(`"ready"`), `"ready"`},
		{App(`{"cmd":"mine","n":[1,2]}`), `{"cmd":"mine","n":[1,2]}`},
		{App(`{"CMD":"FORKD_READY"}`), `{"CMD":"FORKD_READY"}`},
		{App(`{"cmd":5}`), `{"cmd":5}`},
		{App(`[{"cmd":"FORKD_READY"}]`), `[{"cmd":"FORKD_READY"}]`},
		{App(`null`), `null`},
	}
}

type sample struct {
	message Message
	line    string
}

func TestGoldenBytes(t *testing.T) {
	for _, g := range golden() {
		if g.line[0] == '{' || g.line[0] == '"' {
			line, err := Encode(g.message)
			if err != nil || string(line) != g.line+"\n" {
				t.Errorf("encoded %#v as %q, %v; want %q", g.message, line, err, g.line)
			}
		}
		got, err := NewReader(strings.NewReader(g.line + "\n")).Read()
		if err != nil {
			t.Errorf("cannot read %s: %v", g.line, err)
		}
		if diff := cmp.Diff(g.message, got); diff != "" {
			t.Errorf("%s: %s", g.line, diff)
		}
	}
}

func TestReaderRefuses(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"garbage":       {"GET / HTTP/1.1\r\n", "not JSON"},
		"empty":         {"\n", "not JSON"},
		"two values":    {"1 2\n", "not JSON"},
		"not text":      {"\"\xff\"\n", "not UTF-8"},
		"long":          {`"` + strings.Repeat("x", MaxLine) + "\"\n", "over 1048576 bytes"},
		"no newline":    {strings.Repeat("x", MaxLine+1), "over 1048576 bytes"},
		"endless":       {strings.Repeat("x", 3*MaxLine), "over 1048576 bytes"},
		"cut off":       {`{"cmd":`, "ended within a line"},
		"no deadline":   {`{"cmd":"FORKD_DRAIN","reason":"roll"}` + "\n", "no deadline"},
		"odd deadline":  {`{"cmd":"FORKD_DRAIN","deadline":"soon"}` + "\n", "bad FORKD_DRAIN"},
		"negative shed": {`{"cmd":"FORKD_SHED","count":-1}` + "\n", "count -1"},
		"version":       {`{"cmd":"FORKD_HELLO","version":"1"}` + "\n", "bad FORKD_HELLO"},
	} {
		got, err := NewReader(strings.NewReader(c.in)).Read()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v; want an error with %q", name, got, err, c.want)
		}
	}
}

// A line of just MaxLine passes, in whatever pieces it comes; the one after it
// is not disturbed.
func TestReaderLongestLine(t *testing.T) {
	longest := `"` + strings.Repeat("x", MaxLine-2) + `"`
	r := NewReader(iotest.HalfReader(strings.NewReader(longest + "\n{\"cmd\":\"FORKD_READY\"}\n")))
	m, err := r.Read()
	if app, ok := m.(App); err != nil || !ok || string(app) != longest {
		t.Fatalf("the longest line: %T, %v", m, err)
	}
	if m, err = r.Read(); err != nil || m != (Ready{}) {
		t.Fatalf("the line after: %v, %v", m, err)
	}
	if _, err = r.Read(); !errors.Is(err, io.EOF) {
		t.Fatalf("at the end: %v", err)
	}
}

func TestDrainDefaultsAndBounds(t *testing.T) {
	for in, want := range map[string]time.Duration{
		``:              DefaultIdle,
		`,"idle":-5`:    0,
		`,"idle":1e300`: 365 * 24 * time.Hour,
	} {
		m, err := NewReader(strings.NewReader(`{"cmd":"FORKD_DRAIN","deadline":"2026-11-21T06:30:00Z"` + in + "}\n")).Read()
		if d, ok := m.(Drain); err != nil || !ok || d.Idle != want {
			t.Errorf("%q: %#v, %v; want idle %v", in, m, err, want)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for in, want := range map[string]struct {
		text string
		is   error // nil: none that callers tell apart
	}{
		`{`:                     {"not JSON", nil},
		``:                      {"not JSON", nil},
		`{"cmd":"FORKD_READY"}`: {"reserved", ErrReserved},
		`{"cmd":"FORKD_DRAIN"}`: {"reserved", ErrReserved}, // also where it is none of forkd's
		`{"\u0063md":"NODE_X"}`: {"reserved", ErrReserved},
		"\"\xff\"":              {"not UTF-8", ErrNotUTF8},
		`"` + strings.Repeat("x", MaxLine-1) + `"`: {"over 1048576", ErrTooLong},
	} {
		got, err := Encode(App(in))
		if err == nil || !strings.Contains(err.Error(), want.text) || want.is != nil && !errors.Is(err, want.is) {
			t.Errorf("%.30s: %.30q, %v; want an error with %q", in, got, err, want.text)
		}
	}
	// Newlines between tokens would end the line early.
	if got, err := Encode(App("{\n \"a\": 1\n}")); err != nil || string(got) != "{\"a\":1}\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// Whatever comes in, reading ends, and what was read can be written and read
// again to the same message.
func FuzzReader(f *testing.F) {
	for _, g := range golden() {
		f.Add([]byte(g.line + "\n"))
	}
	f.Add([]byte("{\"cmd\":\"FORKD_DRAIN\",\"deadline\":\"9999-12-31T23:59:59Z\",\"idle\":-1}\n1\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewReader(bytes.NewReader(in))
		for range bytes.Count(in, []byte("\n")) + 1 {
			m, err := r.Read()
			if err != nil {
				return
			}
			line, err := Encode(m)
			if err != nil {
				t.Fatalf("cannot encode %#v: %v", m, err)
			}
			if n := bytes.IndexByte(line, '\n'); n != len(line)-1 {
				t.Fatalf("%q is not one line", line)
			}
			again, err := NewReader(bytes.NewReader(line)).Read()
			if err != nil {
				t.Fatalf("cannot read %q again: %v", line, err)
			}
			twice, err := Encode(again)
			if err != nil || !bytes.Equal(line, twice) {
				t.Fatalf("%q was read and written as %q, %v", line, twice, err)
			}
			if _, ok := m.(App); !ok && !cmp.Equal(m, again) {
				t.Fatal(cmp.Diff(m, again))
			}
		}
		if _, err := r.Read(); err == nil {
			t.Fatal("more messages than lines")
		}
	})
}
