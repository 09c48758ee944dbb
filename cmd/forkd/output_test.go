package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
)

// hostile holds a terminal's orders: CSI as C1, DEL, ESC, bidi and a tag.
const hostile = "\u009b31mred\u007f\x1b]0;title\a \u202ereversed\u2066 \U000e0041 größe ✓"

// telling is a Backend whose texts are hostile.
type telling struct {
	made
	events []control.Event
}

func (b telling) Describe(context.Context) (control.Description, error) {
	return control.Description{App: b.app, Readiness: hostile, Env: []string{hostile}}, nil
}

func (b telling) Events(_ context.Context, after uint64) (control.EventPage, error) {
	return control.EventPage{Boot: "b", Events: b.events[min(int(after), len(b.events)):]}, nil
}

func TestJSONCommandsNoTerminal(t *testing.T) {
	app := shop(slot(0, busy(812, 1, control.StateReady, time.Minute)))
	app.Slots[0].Reason = hostile
	pretend(t, t.TempDir(), "shop", telling{
		made:   made{app: app},
		events: []control.Event{{Seq: 1, Type: "crashed", Reason: hostile}, {Seq: 2, Type: "down", Reason: hostile}},
	})
	for _, args := range []string{"status --json shop", "describe --json shop", "events --json shop"} {
		code, out, err := forkd(t, strings.Fields(args)...)
		if code != exitDone || strings.ContainsAny(out, "\u009b\u007f\x1b\a\u202e\u2066\U000e0041") {
			t.Errorf("%s: exit %d, %s, %q", args, code, err, out)
		}
		// A reader of JSON sees the same text.
		if want := fmt.Sprintf("%q", hostile); strings.Count(fmt.Sprintf("%q", values(t, out)), want[1:len(want)-1]) == 0 {
			t.Errorf("%s: the text has changed: %s", args, out)
		}
	}
}

// values reads JSON values, one after the other.
func values(t *testing.T, text string) []any {
	t.Helper()
	var all []any
	for decoder := json.NewDecoder(strings.NewReader(text)); decoder.More(); {
		var v any
		if err := decoder.Decode(&v); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		all = append(all, v)
	}
	return all
}

func TestSanitizeJSON(t *testing.T) {
	for text, want := range map[string]string{
		"{\n  \"a\": \"b\"\n}":     "{\n  \"a\": \"b\"\n}",
		"\"\u0080\u009f\u00a0\"":   `"\u0080\u009f` + "\u00a0\"",
		"\"\u200b\u200f\u2069é\"":  `"\u200b\u200f\u2069é"`,
		"\"\U000e0001\U0001f600\"": `"\udb40\udc01` + "\U0001f600\"",
		"\"\xff\xc2\ufffd\"":       `"\ufffd\ufffd` + "\ufffd\"",
		"\"\x7f\"":                 `"\u007f"`,
	} {
		if got := string(sanitizeJSON([]byte(text))); got != want || !json.Valid([]byte(got)) {
			t.Errorf("%q becomes %q; want %q", text, got, want)
		}
	}
}
