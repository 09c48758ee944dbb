package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
	applog "github.com/forkd/forkd/internal/output"
)

type failedRoll struct {
	client *control.Client
	before *control.App
	began  time.Time
}

// words say what failed, and what serves now.
func (f failedRoll) words(r control.Rolled) string {
	what := fmt.Sprintf("the roll to generation %d has failed: %s", r.Generation, r.Error)
	switch {
	case r.Fault == control.FaultConfiguration:
		return "the configuration was not taken: " + r.Error
	case r.Fault == control.FaultReadiness:
		what = "the new program did not become ready: " + r.Error
	case r.Fault != "":
		what = "the new program has failed: " + r.Error
	}
	switch r.Result {
	case "rolled_back":
		return fmt.Sprintf("%s; rolled back: generation %d serves", what, f.before.Generation)
	case "paused":
		return fmt.Sprintf("%s; paused: slots that have generation %d keep it", what, r.Generation)
	}
	return fmt.Sprintf("%s; %s", what, strings.ReplaceAll(r.Result, "_", " "))
}

func (f failedRoll) more(slot *int) string {
	if slot == nil {
		return ""
	}
	return fmt.Sprintf("; more: forkd logs %s --slot %d", f.client.At().Name, *slot)
}

// Bounds on the wait for the last lines of a worker, which may come after its end.
const (
	linesPoll = 50 * time.Millisecond
	linesWait = 500 * time.Millisecond
)

// show prints the last lines of the workers of a slot that are new since the reload began.
func (f failedRoll) show(ctx context.Context, std stdio, slot int) {
	old := map[int]bool{}
	for _, s := range f.before.Slots {
		for _, w := range s.Workers {
			old[w.PID] = true
		}
	}
	var lines []string
	for giveUp := time.Now().Add(linesWait); time.Now().Before(giveUp); time.Sleep(linesPoll) {
		before := len(lines)
		if lines = f.lines(ctx, slot, old); before > 0 && len(lines) == before {
			break // no more come
		}
	}
	if lines = tellingLines(lines, outputShown); len(lines) == 0 {
		return
	}
	s := screenOf(std.err)
	fmt.Fprintf(std.err, "%s: the last lines of slot %d:\n", f.client.At().Name, slot)
	for _, line := range s.quoted("  ", lines) {
		fmt.Fprintln(std.err, s.paint(dim, line))
	}
}

// lines are those that workers have written which are not of old.
func (f failedRoll) lines(ctx context.Context, slot int, old map[int]bool) (lines []string) {
	_, all, err := f.client.Logs(ctx, applog.Query{N: 200, Slot: &slot, Since: f.began})
	if err != nil {
		return nil // nothing is captured: then the error alone tells
	}
	for _, l := range all {
		if l.Stream != applog.Forkd && l.PID != nil && !old[*l.PID] {
			lines = append(lines, l.Line)
		}
	}
	return lines
}
