package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/fleet"
)

// What stands for the state of a host that does not report.
const (
	stale    = "stale"
	vanished = "vanished"
)

// older marks a generation that is not the newest of the fleet.
const older = "*"

// fleetTable draws an app on all its hosts: a line about them all, then a row for
// each host, and with workers a row for each of theirs.
func fleetTable(s screen, f *fleet.Fleet, workers bool) []string {
	newest := int64(-1)
	if len(f.Totals.Generations) > 1 {
		newest = slices.Max(f.Totals.Generations)
	}
	var hosts, rows []row
	marked := false
	for i := range f.Hosts {
		h := &f.Hosts[i]
		r := hostRow(h, newest)
		marked = marked || strings.HasSuffix(r.cells[2], older)
		hosts = append(hosts, r)
		if workers {
			rows = append(rows, fleetWorkers(h)...)
		}
	}
	lines := fleetHeadline(s, f)
	lines = append(lines, s.grid([]column{
		{"HOST", false},
		{stateTitle, false},
		{"GEN", true},
		{"WORKERS", true},
		{"CONNS", true},
		{"CAP", true},
		{"UTIL", true},
		{"REQS", true},
		{"AGE", true},
	}, hosts)...)
	if marked {
		lines = append(lines, s.paint(dim, s.cut(fmt.Sprintf("  %s the newest generation is %d", older, newest))))
	}
	if len(rows) > 0 {
		lines = append(lines, "")
		lines = append(lines, s.grid([]column{
			{"HOST", false},
			{"SLOT", true},
			{"PID", true},
			{"GEN", true},
			{stateTitle, false},
			{"↺", true},
			{"CONNS", true},
			{"REQS", true},
			{"CPU", true},
			{"MEM", true},
		}, rows)...)
	}
	return lines
}

func fleetHeadline(s screen, f *fleet.Fleet) []string {
	t := &f.Totals
	parts := []string{clean(f.App) + ": " + plural(t.Hosts, "host"), fmt.Sprintf("%d serving", t.Serving)}
	if t.Stale > 0 {
		parts = append(parts, fmt.Sprintf("%d %s", t.Stale, stale))
	}
	if t.Vanished > 0 {
		parts = append(parts, fmt.Sprintf("%d %s", t.Vanished, vanished))
	}
	if t.Twins > 0 {
		parts = append(parts, plural(t.Twins, "twin"))
	}
	if t.Problems > 0 {
		parts = append(parts, plural(t.Problems, "problem"))
	}
	parts = append(parts, fmt.Sprintf("workers %d/%d", t.Ready, t.Wanted))
	switch {
	case t.Connections == nil:
		parts = append(parts, "connections "+unknown)
	case t.Capacity == nil:
		parts = append(parts, plural(int(*t.Connections), "connection"))
	default:
		parts = append(parts, fmt.Sprintf("%s of %d (%s)", plural(int(*t.Connections), "connection"), *t.Capacity, share(t.Utilization)))
	}
	switch generations := t.Generations; {
	case len(generations) == 1:
		parts = append(parts, fmt.Sprintf("generation %d", generations[0]))
	case len(generations) > 1:
		parts = append(parts, fmt.Sprintf("generations %d to %d", slices.Min(generations), slices.Max(generations)))
	}
	lines := s.wrap(parts)
	if t.Serving < t.Hosts {
		serving := parts[1]
		lines[0] = strings.Replace(lines[0], serving, s.paint(yellow, serving), 1)
	}
	if f.Problem != "" {
		for _, line := range s.fold(clean(f.Problem)) {
			lines = append(lines, s.paint(yellow, line))
		}
	}
	return lines
}

// hostRow is a host in a fleet whose newest generation is known; -1: there is
// only one.
func hostRow(h *fleet.Host, newest int64) row {
	state := h.State
	var notes []string
	switch {
	case h.Vanished:
		state = vanished
	case h.Stale:
		state = stale
	case state == "":
		state = unknown
	}
	if h.Twin != "" {
		notes = append(notes, "twin: two masters report as "+h.ID+": give each a redis.host_id of its own")
	}
	if h.Problem != "" {
		notes = append(notes, "cannot read all of it: "+h.Problem)
	}
	generation := number(h.Generation)
	if h.Generation != nil && newest >= 0 && *h.Generation < newest {
		generation += older
	}
	workers := unknown
	if h.Ready != nil || h.Wanted != nil {
		workers = number(h.Ready) + "/" + number(h.Wanted)
	}
	seen := unknown
	if h.Age != nil {
		seen = age(seconds(*h.Age))
	}
	return row{notes: notes, cells: []string{
		clean(h.ID), clean(state), generation, workers,
		count(h.Connections), count(h.Capacity), share(h.Utilization), count(h.Requests), seen,
	}}
}

func fleetWorkers(h *fleet.Host) []row {
	var rows []row
	for i := range h.Workers {
		w := &h.Workers[i]
		rows = append(rows, row{cells: []string{
			clean(h.ID), strconv.FormatInt(w.Slot, 10), number(w.PID), number(w.Generation), clean(w.State),
			count(w.Restarts), count(w.Connections), count(w.Requests), percent(w.CPUPercent), size(w.RSSBytes),
		}})
	}
	return rows
}

// number is a number in full.
func number(n *int64) string {
	if n == nil {
		return unknown
	}
	return strconv.FormatInt(*n, 10)
}

// share is a percentage in at most 5 characters.
func share(p *float64) string {
	if p == nil {
		return unknown
	}
	return short(min(*p, 999e3), 10) + "%"
}

// seconds is a time span, however absurd the number.
func seconds(s float64) time.Duration {
	const most = 100 * 365 * 24 * time.Hour
	return time.Duration(min(max(s, 0), most.Seconds()) * float64(time.Second))
}
