package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
	applog "github.com/forkd/forkd/internal/output"
)

// failedRoll prints the last lines of the worker for which a reload has failed, and returns
// what failed and what serves now.
func failedRoll(ctx context.Context, std stdio, client *control.Client, asked control.Reload, rolled control.Rolled, began time.Time) error {
	name := client.At().Name
	now, err := client.Status(ctx)
	if err != nil {
		return fmt.Errorf("%s: %s", name, failure(asked, rolled, ""))
	}
	more := ""
	if slot := cmp.Or(asked.Slot, rolled.Slot); slot != nil {
		showLines(std, client, lastLines(ctx, client, *slot, rolled.Generation, began, &now), *slot)
		more = fmt.Sprintf("; more: forkd logs %s --slot %d", name, *slot)
	}
	return fmt.Errorf("%s: %s%s", name, failure(asked, rolled, serving(&now)), more)
}

// failure says what failed, and what serves now; "": that is not known.
func failure(asked control.Reload, r control.Rolled, serves string) string {
	what := fmt.Sprintf("the roll to generation %d has failed: %s", r.Generation, r.Error)
	switch {
	case asked.Slot != nil:
		return fmt.Sprintf("slot %d keeps its worker: %s", *asked.Slot, r.Error)
	case r.Fault == control.FaultConfiguration && asked.KeepConfig: // none was read
		return "the roll has not begun: " + r.Error
	case r.Fault == control.FaultConfiguration:
		return "the configuration was not taken: " + r.Error
	case r.Fault == control.FaultReadiness:
		what = "the new program did not become ready: " + r.Error
	case r.Fault != "":
		what = "the new program has failed: " + r.Error
	}
	switch {
	case r.Result == "rolled_back" && serves != "":
		return fmt.Sprintf("%s; rolled back: %s", what, serves)
	case r.Result == "paused":
		return fmt.Sprintf("%s; paused: slots that have generation %d keep it", what, r.Generation)
	}
	return fmt.Sprintf("%s; %s", what, strings.ReplaceAll(r.Result, "_", " "))
}

// serving names the generations of the workers that are ready: more than one, where an
// earlier roll was paused. It is "" where none is ready.
func serving(now *control.App) string {
	ready := map[int]bool{}
	for _, s := range now.Slots {
		for _, w := range s.Workers {
			if w.State == control.StateReady {
				ready[w.Generation] = true
			}
		}
	}
	var names []string
	for _, generation := range slices.Sorted(maps.Keys(ready)) {
		names = append(names, strconv.Itoa(generation))
	}
	switch last := len(names) - 1; last {
	case -1:
		return ""
	case 0:
		return "generation " + names[0] + " serves"
	default:
		return "generations " + strings.Join(names[:last], ", ") + " and " + names[last] + " serve"
	}
}

// Bounds on the wait for the last lines of a worker, which may come after its end.
const (
	linesPoll = 50 * time.Millisecond
	linesWait = 500 * time.Millisecond
)

// lastLines are those that a slot's workers of a generation have written since the reload
// began, but for those that are ready.
func lastLines(ctx context.Context, client *control.Client, slot, generation int, began time.Time, now *control.App) (lines []string) {
	ready := map[int]bool{}
	for _, s := range now.Slots {
		for _, w := range s.Workers {
			ready[w.PID] = w.State == control.StateReady
		}
	}
	for giveUp := time.Now().Add(linesWait); time.Now().Before(giveUp); time.Sleep(linesPoll) {
		_, all, err := client.Logs(ctx, applog.Query{N: 200, Slot: &slot, Since: began})
		if err != nil {
			return nil // nothing is captured: then the error alone tells
		}
		before := len(lines)
		lines = lines[:0]
		for _, l := range all {
			if l.Stream != applog.Forkd && l.PID != nil && !ready[*l.PID] && l.Generation != nil && *l.Generation == generation {
				lines = append(lines, l.Line)
			}
		}
		if before > 0 && len(lines) == before {
			break // no more come
		}
	}
	return tellingLines(lines, outputShown)
}

func showLines(std stdio, client *control.Client, lines []string, slot int) {
	if len(lines) == 0 {
		return
	}
	s := screenOf(std.err)
	fmt.Fprintf(std.err, "%s: the last lines of slot %d:\n", client.At().Name, slot)
	for _, line := range s.quoted("  ", lines) {
		fmt.Fprintln(std.err, s.paint(dim, line))
	}
}
