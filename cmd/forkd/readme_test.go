package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/control"
)

// The screens of README are what is drawn: -update writes them anew.
func TestReadmeScreens(t *testing.T) {
	worker := func(pid, generation int, state string, up time.Duration, connections int64, cpu float64, kib int64) control.Worker {
		return control.Worker{
			PID: pid, Generation: generation, State: state, StartedAt: ago(up), ReadyAt: new(ago(up)), Counted: "kernel",
			Connections: &connections, Queue: new(int64(0)), CPUPercent: &cpu, RSSBytes: new(kib << 10),
		}
	}
	job := func(pid int, kib int64) control.Worker {
		w := worker(pid, 1, control.StateReady, 10*time.Second, 0, 0, kib)
		w.Counted = "no"
		return w
	}
	jobs := shop(slot(0, job(18650, 3380)), slot(1, job(18653, 3480)))
	jobs.Generation, jobs.Listeners = 1, nil
	app := shop(
		slot(0, worker(19508, 2, control.StateReady, 2*time.Second, 3, 2, 46390)),
		slot(1, worker(18672, 1, control.StateDraining, 10*time.Second, 1, 0.4, 46300), worker(19528, 2, control.StateReady, time.Second, 2, 2, 46690)),
		slot(2, worker(18701, 1, control.StateReady, 10*time.Second, 3, 5.9, 46490)),
	)
	app.Generation = 1
	app.Listeners = []control.Listener{{Name: "3000", Address: "tcp6://:3000", Mode: "reuseport", Balance: "hash", Source: "learned"}}
	app.Roll = &control.Roll{From: 1, To: 2, Phase: "rolling", Done: 2, Of: 3}

	m := shownTop(120)
	for _, connections := range []int64{5, 4, 2, 8, 2, 6, 3, 2, 2, 2, 2} {
		app.Totals.Connections = &connections
		m = m.take(looked{apps: []appStatus{appAt("jobs", jobs), appAt("shop", app)}, at: noon})
	}
	app.Totals = control.Sum(app.Slots)
	m = m.take(looked{apps: []appStatus{appAt("jobs", jobs), appAt("shop", app)}, at: noon})
	want := []string{
		strings.Replace(screenText(m), "  "+hostname()+"  ", "  web-1  ", 1),
		strings.Join(statusTable(screen{}, "shop", &app, noon), "\n"),
	}

	const file = "../../README.md"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(data), "## What you see\n")
	section, after, _ := strings.Cut(rest, "\n## ")
	if !found {
		t.Fatal("README has no such section")
	}
	blocks := 0
	var lines []string
	for line := range strings.SplitSeq(section, "\n") {
		if !strings.HasPrefix(line, "    ") {
			lines = append(lines, line)
			continue
		}
		if last := len(lines) - 1; blocks < len(want) && lines[last] == "" && !strings.HasPrefix(lines[max(0, last-1)], "    ") {
			for drawn := range strings.SplitSeq(want[blocks], "\n") {
				lines = append(lines, strings.TrimRight("    "+drawn, " "))
			}
			blocks++
		}
	}
	now := before + "## What you see\n" + strings.Join(lines, "\n") + "\n## " + after
	if blocks != len(want) {
		t.Errorf("%d screens, want %d", blocks, len(want))
	}
	if *update {
		if err := os.WriteFile(file, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(data), now); diff != "" {
		t.Errorf("(-README +drawn; -update writes it)\n%s", diff)
	}
}
