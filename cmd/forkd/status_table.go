package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// statusRow is a row of the status table: a worker, a slot without one, or
// left-over processes. What is not known is nil or zero.
type statusRow struct {
	slot, restarts *int
	worker         control.Worker
	remark         string
}

// statusColumns are the columns of the status table, QUEUE only where queue is set. With
// pids of 7 digits they fit 80 characters.
func statusColumns(now time.Time, queue bool) []column[statusRow] {
	columns := []column[statusRow]{
		figureColumn("SLOT", func(r statusRow) string { return number(r.slot) }),
		figureColumn("PID", func(r statusRow) string { return known(r.worker.PID) }),
		figureColumn("GEN", func(r statusRow) string { return known(r.worker.Generation) }).dropped(5),
		stateColumn(func(r statusRow) string { return stateOf(&r.worker) }),
		figureColumn("UPTIME", func(r statusRow) string {
			if r.worker.StartedAt.IsZero() {
				return unknown
			}
			return age(now.Sub(r.worker.StartedAt))
		}).dropped(6),
		figureColumn("↺", func(r statusRow) string { return number(r.restarts) }).dropped(4),
		figureColumn("CONNS", func(r statusRow) string { return count(r.worker.Connections) }),
		figureColumn("REQ/S", func(r statusRow) string { return rate(r.worker.RequestsPerSecond) }).dropped(2),
		figureColumn("CPU", func(r statusRow) string { return percent(r.worker.CPUPercent) }).dropped(1),
		figureColumn("MEM", func(r statusRow) string { return size(r.worker.RSSBytes) }).dropped(3),
	}
	if queue {
		cpu := len(columns) - 2
		columns = slices.Insert(columns, cpu, figureColumn("QUEUE", func(r statusRow) string { return count(r.worker.Queue) }))
	}
	return columns
}

// queued reports whether connections wait to be accepted in any slot.
func queued(rows []statusRow) bool {
	return slices.ContainsFunc(rows, func(r statusRow) bool { return r.worker.Queue != nil && *r.worker.Queue > 0 })
}

// statusTable draws an app at a time: lines about the app, then its workers.
func statusTable(s screen, title string, app *control.App, now time.Time) []string {
	var rows []statusRow
	for i := range app.Slots {
		rows = append(rows, slotRows(&app.Slots[i], now)...)
	}
	for i := range app.Leftovers {
		rows = append(rows, leftoverRow(&app.Leftovers[i], now))
	}
	return append(appLines(s, title, app, now), drawTable(s, statusColumns(now, queued(rows)), rows, func(r statusRow, indent string) []string {
		if r.remark == "" {
			return nil
		}
		return []string{s.paint(dim, s.cut(indent+sanitize(r.remark)))}
	})...)
}

func appLines(s screen, title string, app *control.App, now time.Time) []string {
	t, state := &app.Totals, app.State
	if app.HostDraining && state == control.StateDraining {
		state = "host draining"
	}
	parts := []string{
		fmt.Sprintf("%s: %s %d/%d", title, state, t.Ready, t.Wanted),
		fmt.Sprintf("generation %d", app.Generation),
	}
	for _, l := range app.Listeners {
		parts = append(parts, listenerText(l))
	}
	if t.Connections != nil {
		parts = append(parts, plural(int(*t.Connections), "connection"))
	} else {
		parts = append(parts, "connections "+unknown)
	}
	if app.HostDraining && state == app.State {
		parts = append(parts, "host draining")
	}
	if r := app.Redis; r != nil {
		text := "redis " + r.State + " for " + age(now.Sub(r.Since))
		if r.Error != "" {
			text += " (" + r.Error + ")"
		}
		parts = append(parts, text)
	}
	if r := app.Roll; r != nil {
		parts = append(parts, rollText(r))
	}
	for i := range parts {
		parts[i] = sanitize(parts[i])
	}
	lines := s.list(parts)
	lines[0] = strings.Replace(lines[0], sanitize(state), s.paint(appStyle(app), sanitize(state)), 1)
	if f := app.Fallback; f != nil {
		text := fmt.Sprintf("runs the release that served last, %s, since %s, not %s, of which no worker became ready: %s; forkd reload tries again",
			f.Directory, clock(f.At, now), f.Instead, f.Error)
		lines = append(lines, s.warning(s.wrap(sanitize(text)))...)
	}
	if app.DirectoryNow != "" {
		lines = append(lines, s.warning(s.wrap(sanitize("the directory is "+app.DirectoryNow+" now: forkd reload "+app.App+" takes it")))...)
	}
	switch last := app.LastRoll; {
	case app.ReloadError != nil:
		text := "configuration not taken, " + age(now.Sub(app.ReloadError.At)) + " ago: " + app.ReloadError.Error
		lines = append(lines, s.warning(s.wrap(sanitize(text)))...)
	case last != nil && app.Roll == nil && last.Result != control.ResultDone:
		text := fmt.Sprintf("last roll, to generation %d: %s", last.Generation, resultText(*last))
		lines = append(lines, s.warning(s.wrap(sanitize(text)))...)
	}
	return lines
}

// listenerText is a listener's name and address; a name that comes of the address, as those
// that nobody gave, is left out; of port 0 that is "0".
func listenerText(l control.Listener) string {
	if l.Name == "0" || strings.HasSuffix(l.Address, ":"+l.Name) || strings.HasSuffix(l.Address, "/"+l.Name) {
		return l.Address
	}
	return l.Name + " " + l.Address
}

func rollText(r *control.Roll) string {
	text := fmt.Sprintf("roll to %d: %s %d/%d", r.To, r.Phase, r.Done, r.Of)
	if r.Reason != "" {
		text += " (" + r.Reason + ")"
	}
	return sanitize(text)
}

func resultText(r control.Rolled) string {
	if r.Fault == control.FaultConfiguration {
		return "refused: " + r.Error
	}
	return withReason(strings.ReplaceAll(r.Result, "_", " "), r.Error)
}

// withReason is "what: reason", or "what" without a reason.
func withReason(what, reason string) string {
	if reason == "" {
		return what
	}
	return what + ": " + reason
}

// slotRows has a row for each worker, a draining predecessor first, and one for a
// slot that has no worker or whose newest has ended.
func slotRows(slot *control.Slot, now time.Time) []statusRow {
	var rows []statusRow
	for _, w := range slot.Workers {
		rows = append(rows, statusRow{slot: &slot.Slot, restarts: &slot.Restarts, worker: w})
	}
	switch {
	case len(rows) == 0 || vacant(slot.State):
		return append(rows, statusRow{
			slot: &slot.Slot, restarts: &slot.Restarts, worker: control.Worker{State: slot.State}, remark: vacancy(slot, now),
		})
	case slot.Leaving:
		rows[len(rows)-1].remark = "leaves: it was scaled away"
	}
	return rows
}

func leftoverRow(l *control.Leftover, now time.Time) statusRow {
	r := statusRow{slot: l.Slot, worker: control.Worker{PID: l.PID, State: l.State}, remark: l.Reason}
	if l.StartedAt != nil {
		r.worker.StartedAt = *l.StartedAt
	}
	if l.Processes > 1 {
		r.remark = fmt.Sprintf("%d processes, %s", l.Processes, r.remark)
	}
	if l.KillAt != nil {
		r.remark += "; killed " + until(l.KillAt.Sub(now))
	}
	return r
}

// endsOften is after how many restarts a program that ends cleanly may be no server.
const endsOften = 3

// vacancy says why a slot has no worker, and when it gets one.
func vacancy(slot *control.Slot, now time.Time) string {
	var parts []string
	if reason := lastReason(slot); reason != "" {
		parts = append(parts, reason)
	}
	if slot.NextStartAt != nil {
		parts = append(parts, "starts again "+until(slot.NextStartAt.Sub(now)))
		if last := slot.LastExit; last != nil && last.Code != nil && *last.Code == 0 && slot.Restarts >= endsOften {
			parts = append(parts, `if it is meant to end: restart.condition = "on-failure" (--restart)`)
		}
	}
	return strings.Join(parts, "; ")
}

// lastReason is the reason of a slot's state, else of its last exit.
func lastReason(slot *control.Slot) string {
	if slot.Reason == "" && slot.LastExit != nil {
		return slot.LastExit.Reason
	}
	return slot.Reason
}

// vacant reports whether a slot in this state has no live worker.
func vacant(state string) bool { return state == "backoff" || over(state) }

// over reports whether no worker is started in a slot in this state until the next roll.
func over(state string) bool { return state == "exited" || state == "failed" }

// Marks of the state of a worker: SIGSTOP or the like has stopped it, or connections wait
// for it and it accepts none.
const (
	stopped = " (stopped)"
	stalled = " (stalled)"
)

func stateOf(w *control.Worker) string {
	switch {
	case w.Stopped:
		return sanitize(w.State) + stopped
	case w.Stalled:
		return sanitize(w.State) + stalled
	}
	return sanitize(w.State)
}

func stateStyle(state string) style {
	switch state {
	case control.StateReady:
		return green
	case control.StateStarting, control.StateDraining, "backoff", fleet.StateStale:
		return yellow
	case "failed", fleet.StateVanished:
		return red
	}
	if strings.HasSuffix(state, stopped) || strings.HasSuffix(state, stalled) {
		return yellow
	}
	return plain
}

func appStyle(app *control.App) style {
	if app.State == control.StateReady && !app.AllReady() {
		return yellow
	}
	return stateStyle(app.State)
}
