package fleet

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/control"
)

func TestParseOrder(t *testing.T) {
	at := time.Date(2026, 11, 21, 7, 0, 0, 0, time.UTC)
	for text, want := range map[string]Command{
		`{"id":"a.B-1_","op":"scale","args":{"workers":"cpus-1"},"expires_at":"2026-11-21T07:00:00Z"}`: {control.Command{ID: "a.B-1_", Op: control.OpScale, Args: control.Args{Workers: "cpus-1"}}, at},
		`{"id":"1","op":"shed","args":{"count":1,"seconds":3},"expires_at":1795244400000}`:             {control.Command{ID: "1", Op: control.OpShed, Args: control.Args{Count: 1, Seconds: 3}}, at},
		` {"id":"1","op":"shed","args":{"count":1},"expires_at":1795244400000} `:                       {control.Command{ID: "1", Op: control.OpShed, Args: control.Args{Count: 1, Seconds: 10}}, at},
		`{"id":"1","op":"resume","args":null,"expires_at":1795244400000}`:                              {control.Command{ID: "1", Op: control.OpResume}, at},
	} {
		got, err := parseCommand(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" { // times are compared by Equal
			t.Errorf("%s: %s", text, diff)
		}
	}
	const expires = `,"expires_at":1795244400000}`
	for _, text := range []string{
		``, `x`, `null`, `[]`, `"x"`, `{}`, `{"id":"1","op":"roll"`, `{"id":"1","op":"roll"}`, `{"id":"1","op":"roll"` + expires + `x`, `{"id":"1","op":"roll"` + expires + `{}`,
		`{"id":"","op":"roll"` + expires, `{"id":"a b","op":"roll"` + expires, `{"id":"a\n","op":"roll"` + expires, `{"id":1,"op":"roll"` + expires,
		`{"id":"` + strings.Repeat("x", 65) + `","op":"roll"` + expires,
		`{"id":"1","op":"stop"` + expires, `{"id":"1","op":""` + expires, `{"id":"1","op":"roll","now":true` + expires,
		`{"id":"1","op":"scale"` + expires, `{"id":"1","op":"scale","args":{"workers":"many"}` + expires, `{"id":"1","op":"scale","args":{"workers":4}` + expires,
		`{"id":"1","op":"scale","args":{"workers":"4","count":1}` + expires, `{"id":"1","op":"roll","args":{"workers":"4"}` + expires,
		`{"id":"1","op":"shed"` + expires, `{"id":"1","op":"shed","args":{"count":0}` + expires, `{"id":"1","op":"shed","args":{"count":-1}` + expires,
		`{"id":"1","op":"shed","args":{"count":1,"seconds":-1}` + expires, `{"id":"1","op":"shed","args":{"count":1,"seconds":100000}` + expires, `{"id":"1","op":"shed","args":{"count":1e30}` + expires,
		`{"id":"1","op":"roll","expires_at":"tomorrow"}`, `{"id":"1","op":"roll","expires_at":0}`, `{"id":"1","op":"roll","expires_at":1e12}`, `{"id":"1","op":"roll","expires_at":null}`,
		`{"id":"1","op":"roll"` + expires + strings.Repeat(" ", maxCommand),
	} {
		if c, err := parseCommand(text); err == nil {
			t.Errorf("%s is taken: %+v", text, c)
		}
	}
	// Who has sent one of these waits for an answer to its id.
	for text, why := range map[string]string{
		`{"id":"1","op":"scale","args":{"workers":4}` + expires:   "has a number as args.workers",
		`{"id":"1","op":"roll","now":true` + expires:              `is no JSON of a command: unknown field "now"`,
		`{"id":"1","op":"roll","expires_at":"tomorrow"}`:          "has no expires_at in RFC 3339 or ms since the epoch",
		`{"id":"1","op":"shed","args":{"count":"many"}` + expires: "has a string as args.count",
	} {
		if c, err := parseCommand(text); err == nil || err.Error() != why || c.ID != "1" {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
	}
}

func FuzzOrder(f *testing.F) {
	f.Add(`{"id":"1","op":"scale","args":{"workers":"+2"},"expires_at":1795244400000}`)
	f.Add(`{"id":"1","op":"shed","args":{"count":1,"seconds":3},"expires_at":"2026-11-21T07:00:00Z"}`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseCommand(text)
		if err == nil && (c.ID == "" || len(c.ID) > 64 || c.ExpiresAt.IsZero() || c.Args.Count < 0 || c.Args.Seconds < 0 || len(c.Args.Workers) > maxCommand) {
			t.Fatalf("%+v", c)
		}
	})
}
