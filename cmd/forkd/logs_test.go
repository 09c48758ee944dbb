package main

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	applog "github.com/forkd/forkd/internal/output"
)

func TestTimeSince(t *testing.T) {
	now := time.Date(2026, 11, 28, 7, 30, 15, 5e8, time.FixedZone("", 3600))
	for text, want := range map[string]string{
		"10m":                       "2026-11-28T07:20:15.5+01:00",
		"0s":                        "2026-11-28T07:30:15.5+01:00",
		"06:05":                     "2026-11-28T06:05:00+01:00",
		"06:05:04":                  "2026-11-28T06:05:04+01:00",
		"2026-11-27":                "2026-11-27T00:00:00+01:00",
		"2026-11-27 06:05":          "2026-11-27T06:05:00+01:00",
		"2026-11-27 06:05:04":       "2026-11-27T06:05:04+01:00",
		"2026-11-27T06:05:04.1Z":    "2026-11-27T06:05:04.1Z",
		"2026-11-27T06:05:04-01:00": "2026-11-27T06:05:04-01:00",
		"-10m":                      "", "yesterday": "", "": "", "10": "",
	} {
		got, ok := timeSince(text, now)
		if text := got.Format(time.RFC3339Nano); ok != (want != "") || ok && text != want {
			t.Errorf("%q is %s (%v), want %s", text, text, ok, want)
		}
	}
}

// What a worker writes reaches no terminal as it is.
func TestLogLinesAreHarmless(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	at := time.Date(2026, 11, 28, 7, 0, 0, 123456e3, time.UTC)
	for _, asJSON := range []bool{false, true} {
		p := newLogPrinter(stdio{out: out}, asJSON)
		for _, l := range []applog.Line{
			{Time: at, Slot: new(1), Stream: applog.Stdout, Line: "\x1b[1;31mred\x1b[0m \x1b]0;title\a\tbinary\x00\x9b\xff \u202eback\r"},
			{Time: at, Slot: new(1), Stream: applog.Forkd, Level: applog.LevelWarning, Line: "gone"},
			{Time: at, Stream: applog.Forkd, Level: applog.LevelInfo, Line: "up"},
			{Time: at, Stream: "\x1b", Level: "\x1b[2J", Line: "of a liar"},
		} {
			if err := p.print(l); err != nil {
				t.Fatal(err)
			}
		}
	}
	const stamp = "2026-11-28T07:00:00.123Z "
	const object = `{"time":"2026-11-28T07:00:00.123456Z","slot":`
	want := stamp + "1 | red ]0;title binary back\n" + stamp + "forkd warning | gone\n" + stamp + "forkd | up\n" + stamp + "forkd [2J | of a liar\n" +
		object + `1,"generation":null,"pid":null,"stream":"stdout","level":"","line":"\u001b[1;31mred\u001b[0m \u001b]0;title\u0007\tbinary\u0000\ufffd\ufffd \u202eback\r"}` + "\n" +
		object + `1,"generation":null,"pid":null,"stream":"forkd","level":"warning","line":"gone"}` + "\n" +
		object + `null,"generation":null,"pid":null,"stream":"forkd","level":"info","line":"up"}` + "\n" +
		object + `null,"generation":null,"pid":null,"stream":"\u001b","level":"\u001b[2J","line":"of a liar"}` + "\n"
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

// Lines of a time when the clock was ahead, or that have come meanwhile, hide none.
func TestMergedLines(t *testing.T) {
	line := func(seconds int) applog.Line {
		return applog.Line{Time: time.Date(2026, 11, 28, 7, 0, seconds, 0, time.UTC), Line: strconv.Itoa(seconds)}
	}
	lines := func(seconds ...int) (all []applog.Line) {
		for _, s := range seconds {
			all = append(all, line(s))
		}
		return all
	}
	for _, c := range []struct {
		kept, remembered []applog.Line
		n                int
		want             []applog.Line
	}{
		{lines(1, 2, 3, 4), lines(2, 4), 3, lines(2, 3, 4)},
		{lines(1, 2, 3), lines(1, 3, 4), 9, lines(1, 2, 3, 4)},
		{lines(3601, 3602, 1, 2), lines(2), 9, lines(3601, 3602, 1, 2)},
		{lines(3601, 3602, 1, 2), lines(1, 2), 2, lines(1, 2)},
		{lines(1, 2, 3), lines(2), 9, lines(1, 2)},
		{lines(1, 2), nil, 1, lines(2)},
		{nil, lines(1), 9, lines(1)},
		{nil, nil, 9, lines()},
	} {
		if diff := cmp.Diff(c.want, merged(c.kept, c.remembered, c.n), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%+v: %s", c, diff)
		}
	}
}
