package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
)

// columns of the status table, as docs/contract.md, section 5, has them. With
// pids of 7 digits they fit 80 characters.
//
//nolint:gochecknoglobals // a fixed table
var columns = []column{
	{"SLOT", true},
	{"PID", true},
	{"GEN", true},
	{stateTitle, false},
	{"UPTIME", true},
	{"↺", true},
	{"CONNS", true},
	{"REQ/S", true},
	{"CPU", true},
	{"MEM", true},
}

// table draws an app as it is at a time: a line about the app, then a row for
// each worker. Its lines carry no line ends.
func table(s screen, title string, app *control.App, now time.Time) []string {
	var rows []row
	for i := range app.Slots {
		rows = append(rows, slotRows(&app.Slots[i], now)...)
	}
	for i := range app.Leftovers {
		rows = append(rows, leftoverRow(&app.Leftovers[i], now))
	}
	return append(headline(s, title, app, now), s.grid(columns, rows)...)
}

// headline is the line about the app, wrapped to the screen.
func headline(s screen, title string, app *control.App, now time.Time) []string {
	t := &app.Totals
	parts := []string{
		fmt.Sprintf("%s: %s %d/%d", clean(title), clean(app.State), t.Ready, t.Wanted),
		fmt.Sprintf("generation %d", app.Generation),
	}
	for _, l := range app.Listeners {
		parts = append(parts, clean(l.Name+" "+l.Address))
	}
	if t.Connections != nil {
		parts = append(parts, plural(int(*t.Connections), "connection"))
	} else {
		parts = append(parts, "connections "+unknown)
	}
	if app.HostDraining {
		parts = append(parts, "host draining")
	}
	if r := app.Redis; r != nil {
		text := "redis " + r.State + " since " + age(now.Sub(r.Since))
		if r.Error != "" {
			text += " (" + r.Error + ")"
		}
		parts = append(parts, clean(text))
	}
	if r := app.Roll; r != nil {
		parts = append(parts, rollText(r))
	}
	lines := s.wrap(parts)
	lines[0] = strings.Replace(lines[0], clean(app.State), s.paint(appColor(app), clean(app.State)), 1)
	if e := app.ReloadError; e != nil {
		for _, line := range s.fold(clean("configuration not taken, " + age(now.Sub(e.At)) + " ago: " + e.Error)) {
			lines = append(lines, s.paint(yellow, line))
		}
	}
	if last := app.LastRoll; last != nil && app.Roll == nil && app.ReloadError == nil && last.Result != control.ResultDone {
		lines = append(lines, s.paint(yellow, s.cut("  last roll, to generation "+strconv.Itoa(last.Generation)+": "+clean(resultText(*last)))))
	}
	return lines
}

// rollText is a roll with its step, in words.
func rollText(r *control.Roll) string {
	text := fmt.Sprintf("roll to %d: %s %d/%d", r.To, r.Phase, r.Done, r.Of)
	if r.Reason != "" {
		text += " (" + r.Reason + ")"
	}
	return clean(text)
}

// resultText is how a roll ended, and why.
func resultText(r control.Rolled) string {
	text := strings.ReplaceAll(r.Result, "_", " ")
	if r.Error != "" {
		text += ": " + r.Error
	}
	return text
}

// slotRows has a row for each worker, a draining predecessor first, and one for
// a slot that has none or whose newest is gone.
func slotRows(slot *control.Slot, now time.Time) []row {
	var rows []row
	for i := range slot.Workers {
		w := &slot.Workers[i]
		state := clean(w.State)
		if w.Stopped {
			state += stopped
		}
		rows = append(rows, row{cells: []string{
			strconv.Itoa(slot.Slot),
			strconv.Itoa(w.PID),
			strconv.Itoa(w.Generation),
			state,
			age(now.Sub(w.StartedAt)),
			strconv.Itoa(slot.Restarts),
			count(w.Connections),
			rate(w.RequestsPerSecond),
			percent(w.CPUPercent),
			size(w.RSSBytes),
		}})
	}
	if len(rows) > 0 && !vacant(slot.State) {
		if slot.Leaving {
			rows[len(rows)-1].remark = "leaves: it was scaled away"
		}
		return rows
	}
	cells := []string{strconv.Itoa(slot.Slot), unknown, unknown, clean(slot.State), unknown, strconv.Itoa(slot.Restarts), unknown, unknown, unknown, unknown}
	return append(rows, row{cells: cells, remark: why(slot, now)})
}

// leftoverRow is for processes that are in no worker's session.
func leftoverRow(l *control.Leftover, now time.Time) row {
	slot, up, remark := unknown, unknown, clean(l.Reason)
	if l.Slot != nil {
		slot = strconv.Itoa(*l.Slot)
	}
	if l.StartedAt != nil {
		up = age(now.Sub(*l.StartedAt))
	}
	if l.Processes > 1 {
		remark = fmt.Sprintf("%d processes, %s", l.Processes, remark)
	}
	if l.KillAt != nil {
		remark += "; killed in " + soon(l.KillAt.Sub(now))
	}
	cells := []string{slot, strconv.Itoa(l.PID), unknown, clean(l.State), up, unknown, unknown, unknown, unknown, unknown}
	return row{cells: cells, remark: remark}
}

// why says how a slot came to be without a worker, and when it gets one.
func why(slot *control.Slot, now time.Time) string {
	text := slot.Reason
	if text == "" && slot.LastExit != nil {
		text = slot.LastExit.Reason
	}
	if slot.NextStartAt != nil {
		if text != "" {
			text += "; "
		}
		text += "starts again in " + soon(slot.NextStartAt.Sub(now))
	}
	return text
}

// vacant reports whether a slot's state is that of one without a live worker.
func vacant(state string) bool {
	return state == "backoff" || state == "exited" || state == "failed"
}

// stopped marks the state of a worker that SIGSTOP or the like has stopped.
const stopped = " (stopped)"

func stateColor(state string) paint {
	if strings.HasSuffix(state, stopped) {
		return yellow
	}
	switch state {
	case control.StateReady:
		return green
	case control.StateStarting, control.StateDraining, "backoff", stale:
		return yellow
	case "failed", vanished:
		return red
	default:
		return plain
	}
}

func appColor(app *control.App) paint {
	if app.State == control.StateReady && !app.AllReady() {
		return yellow
	}
	return stateColor(app.State)
}
