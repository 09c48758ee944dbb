package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/doctor"
)

// told is a description with something of everything, some of it hostile.
func told() control.Description {
	app := shop(
		slot(0, busy(4194200, 3, control.StateReady, time.Hour)),
		slot(1, busy(4194201, 3, control.StateReady, time.Minute)),
	)
	app.Version, app.StartedAt, app.Config = "v1.2.3", ago(26*time.Hour), "/etc/forkd/shop.toml"
	app.Listeners[0].Source = "bound"
	app.Listeners = append(app.Listeners, control.Listener{Name: "admin", Address: "unix:///run/shop/admin.sock", Mode: "shared", Source: "systemd"})
	d := control.Description{
		App: app,
		Release: control.Release{
			Generation: 3, Directory: "/srv/shop/releases/2026-11-21T11:00:00Z-with-a-long-name-of-its-own-that-does-not-fit",
			Executable: "/srv/shop/releases/3/server",
			Command:    []string{"./server", "--greeting", "two words", "", "\x1b[31mred"},
		},
		Readiness: "auto: accepting, as it can be seen from outside, and notify, because the worker has said hello on the channel",
		Env:       []string{"RAILS_ENV", "LANG", "DATABASE_POOL"},
		Settings: []control.Setting{
			{Key: "workers", Value: "2", Source: "--workers"},
			{Key: "drain.timeout", Value: "30s", Source: "default"},
			{Key: "listen.http.address", Value: "tcp://:8080", Source: "/etc/forkd/shop.toml:12"},
			{Key: "command", Value: "./server --greeting 'two words and some more of them'", Source: "/etc/forkd/shop.toml:2"},
		},
		Rolls: []control.RollRecord{
			{Generation: 2, Result: "rolled_back", Error: "slot 1, generation 2, before it was ready: exit status 3, and then a reason that is rather long", StartedAt: ago(25 * time.Hour), EndedAt: ago(25*time.Hour - 300*time.Millisecond)},
			{Generation: 3, Result: control.ResultDone, StartedAt: ago(time.Hour), EndedAt: ago(time.Hour - 12*time.Second)},
		},
		Messages: control.Messages{Sent: 12, Dropped: 1},
	}
	for n := range 12 {
		d.History = append(d.History, control.Exit{
			Slot: n % 2, Generation: 2, PID: 4194100 + n,
			LastExit: control.LastExit{At: ago(time.Duration(12-n) * 10 * time.Minute), Code: new(3), Reason: "exit status 3"},
		})
	}
	last := &d.History[11]
	last.Code, last.Signal, last.Reason, last.ReadyFor = nil, "SIGSEGV", "killed by SIGSEGV (core dumped)", new(3725.5)
	for n := range 8 {
		last.Output = append(last.Output, fmt.Sprintf("line %d \x1b]0;title\x07%s", n, strings.Repeat("x", n*15)))
	}
	return d
}

func TestDescription(t *testing.T) {
	for name, slot := range map[string]int{"app": allSlots, "slot": 1} {
		t.Run(name, func(t *testing.T) {
			d := told()
			if slot != allSlots {
				if err := keepSlot(&d, slot); err != nil {
					t.Fatal(err)
				}
			}
			lines := description(screen{width: 80}, "shop", &d, slot, noon)
			golden(t, filepath.Join("testdata", "describe", name+".txt"), lines)
			for _, line := range description(screen{}, "shop", &d, slot, noon) {
				if strings.Contains(line, "…") || strings.ContainsAny(line, "\x1b\x07\n") {
					t.Errorf("without a terminal: %q", line)
				}
			}
		})
	}
	d := told()
	if err := keepSlot(&d, 7); err == nil || err.Error() != "there is no slot 7: it has 2 slots, from 0" {
		t.Error(err)
	}
}

// golden compares a picture of 80 columns with a file, or writes that with -update.
func golden(t *testing.T, path string, lines []string) (got string) {
	t.Helper()
	for _, line := range lines {
		if n := utf8.RuneCountInString(line); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	got = strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
	return got
}

// However narrow the screen, wrapping ends, and loses nothing but spaces.
func TestWrapLosesNothing(t *testing.T) {
	for _, text := range []string{"", " ", "a b c", strings.Repeat("word ", 50), strings.Repeat("x", 300), "é " + strings.Repeat("ö", 100)} {
		for width := range 100 {
			s := screen{width: width}
			lines := slices.Concat(s.wrap(text), s.keyValues([][2]string{{strings.Repeat("k", width), text + "."}}))
			want := text + strings.Repeat("k", width) + text + "."
			if got := strings.Join(lines, ""); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
				t.Errorf("width %d: %q became %q", width, text, lines)
			}
		}
	}
}

func TestEventLines(t *testing.T) {
	lines := []string{}
	for _, e := range []control.Event{
		{Time: ago(26 * time.Hour), Type: "up", Reason: "forkd v1.2.3"},
		{Time: ago(time.Hour), Type: "ready", Slot: new(1), Generation: new(2), PID: new(77), Reason: "notify"},
		{Time: ago(time.Minute).In(time.FixedZone("far", 3600)), Type: "crashed", Slot: new(0), Generation: new(2), PID: new(76), Reason: "killed by SIGKILL\x1b[2J\nforged line"},
		{Time: ago(time.Second), Type: "roll_done", Generation: new(3)},
		{Time: noon, Type: "down"},
	} {
		lines = append(lines, eventLine(screen{width: 80}, e, noon))
	}
	want := []string{
		"2026-11-20 10:00:00 up: forkd v1.2.3",
		"11:00:00 ready slot 1 generation 2 pid 77: notify",
		"11:59:00 crashed slot 0 generation 2 pid 76: killed by SIGKILL[2J forged line",
		"11:59:59 roll_done generation 3",
		"12:00:00 down",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
}

// At 40 columns a column of words that leaves little room is given up below its first line.
func TestWrapFits(t *testing.T) {
	s := screen{width: 40}
	lines := s.keyValues([][2]string{{strings.Repeat("k", 28), strings.Repeat("word ", 20)}})
	lines = append(lines, s.findings([]doctor.Finding{{Result: doctor.Allowed, Check: "backlog", Text: "4096 connections can wait in a slot's queue"}})...)
	for _, line := range lines {
		if columnsOf(line) > 40 {
			t.Errorf("wider than the screen: %q", line)
		}
	}
}
