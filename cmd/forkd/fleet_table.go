package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/fleet"
)

const older = "*" // marks a generation that is not the newest of the fleet

func hostColumns(isOld func(*fleet.Host) bool) []column[*fleet.Host] {
	return []column[*fleet.Host]{
		textColumn("HOST", func(h *fleet.Host) string { return sanitize(h.ID) }),
		stateColumn(func(h *fleet.Host) string { return cmp.Or(sanitize(h.Shown()), unknown) }),
		figureColumn("GEN", func(h *fleet.Host) string {
			if isOld(h) {
				return number(h.Generation) + older
			}
			return number(h.Generation)
		}),
		figureColumn("WORKERS", func(h *fleet.Host) string {
			if h.Ready == nil && h.Wanted == nil {
				return unknown
			}
			return number(h.Ready) + "/" + number(h.Wanted)
		}),
		figureColumn("CONNS", func(h *fleet.Host) string { return count(h.Connections) }),
		figureColumn("CAP", func(h *fleet.Host) string { return count(h.Capacity) }),
		figureColumn("UTIL", func(h *fleet.Host) string { return share(h.Utilization) }),
		figureColumn("REQS", func(h *fleet.Host) string { return count(h.Requests) }),
		figureColumn("AGE", func(h *fleet.Host) string {
			const most = 100 * 365 * 86400 // seconds
			return figure(h.Age, func(s float64) string { return age(time.Duration(min(s, most) * float64(time.Second))) })
		}),
	}
}

type hostWorker struct {
	host string
	*fleet.Worker
}

func workerColumns() []column[hostWorker] {
	return []column[hostWorker]{
		textColumn("HOST", func(w hostWorker) string { return sanitize(w.host) }),
		figureColumn("SLOT", func(w hostWorker) string { return number(&w.Slot) }),
		figureColumn("PID", func(w hostWorker) string { return number(w.PID) }),
		figureColumn("GEN", func(w hostWorker) string { return number(w.Generation) }),
		stateColumn(func(w hostWorker) string { return sanitize(w.State) }),
		figureColumn("↺", func(w hostWorker) string { return count(w.Restarts) }),
		figureColumn("CONNS", func(w hostWorker) string { return count(w.Connections) }),
		figureColumn("REQS", func(w hostWorker) string { return count(w.Requests) }),
		figureColumn("CPU", func(w hostWorker) string { return percent(w.CPUPercent) }),
		figureColumn("MEM", func(w hostWorker) string { return size(w.RSSBytes) }),
	}
}

// fleetTable draws an app on all its hosts: lines about the fleet, then a row for
// each host, and with workers a row for each of theirs.
func fleetTable(s screen, f *fleet.Fleet, workers bool) []string {
	newest := slices.Max(append([]int64{0}, f.Totals.Generations...))
	isOld := func(h *fleet.Host) bool { return h.Generation != nil && *h.Generation < newest }
	var hosts []*fleet.Host
	var rows []hostWorker
	for i := range f.Hosts {
		h := &f.Hosts[i]
		hosts = append(hosts, h)
		for k := range h.Workers {
			rows = append(rows, hostWorker{h.ID, &h.Workers[k]})
		}
	}
	lines := append(fleetLines(s, f), drawTable(s, hostColumns(isOld), hosts, func(h *fleet.Host, _ string) []string {
		var notes []string
		if h.Twin != "" {
			notes = s.wrap(sanitize("twin: two masters report as " + h.ID + ": give each a redis.host_id of its own"))
		}
		if h.Problem != "" {
			notes = append(notes, s.wrap(sanitize("cannot read all of it: "+h.Problem))...)
		}
		return s.warning(notes)
	})...)
	if slices.ContainsFunc(hosts, isOld) {
		lines = append(lines, s.paint(dim, s.cut(fmt.Sprintf("  %s the newest generation is %d", older, newest))))
	}
	if workers && len(rows) > 0 {
		lines = append(lines, "")
		lines = append(lines, drawTable(s, workerColumns(), rows, nil)...)
	}
	return lines
}

func fleetLines(s screen, f *fleet.Fleet) []string {
	t := &f.Totals
	serving := fmt.Sprintf("%d serving", t.Serving)
	parts := []string{sanitize(f.App) + ": " + plural(t.Hosts, "host"), serving}
	some := func(n int, text string) {
		if n > 0 {
			parts = append(parts, text)
		}
	}
	some(t.Stale, fmt.Sprint(t.Stale, " ", fleet.StateStale))
	some(t.Vanished, fmt.Sprint(t.Vanished, " ", fleet.StateVanished))
	some(t.Twins, plural(t.Twins, "twin"))
	some(t.Problems, plural(t.Problems, "problem"))
	parts = append(parts, fmt.Sprintf("workers %d/%d", t.Ready, t.Wanted))
	switch {
	case t.Connections == nil:
		parts = append(parts, "connections "+unknown)
	case t.Capacity == nil:
		parts = append(parts, plural(int(*t.Connections), "connection"))
	default:
		parts = append(parts, fmt.Sprintf("%s of %d (%s)", plural(int(*t.Connections), "connection"), *t.Capacity, share(t.Utilization)))
	}
	switch all := t.Generations; len(all) {
	case 0:
	case 1:
		parts = append(parts, fmt.Sprintf("generation %d", all[0]))
	default:
		parts = append(parts, fmt.Sprintf("generations %d to %d", all[0], all[len(all)-1]))
	}
	lines := s.list(parts)
	if t.Serving < t.Hosts {
		lines[0] = strings.Replace(lines[0], serving, s.paint(yellow, serving), 1)
	}
	if f.Problem != "" {
		lines = append(lines, s.warning(s.wrap(sanitize(f.Problem)))...)
	}
	return lines
}
