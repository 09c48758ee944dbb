package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/forkd/forkd/internal/control"
)

// View is as high as the screen at most, and nothing in it is wider.
func (m top) View() tea.View {
	v := tea.NewView(strings.Join(m.draw(screen{width: m.width, height: m.height, color: m.color}), "\n"))
	v.AltScreen = true
	v.WindowTitle = "forkd top"
	return v
}

func (m top) draw(s screen) []string {
	if m.height == 0 || m.now.IsZero() {
		return nil // no size, or no answer yet
	}
	lines := []string{s.paint(bold, s.cut(m.summary()))}
	if m.open != nil {
		body := m.open[min(m.scroll, len(m.open)):]
		for _, line := range body[:min(len(body), m.rows())] {
			lines = append(lines, s.cut(sanitize(line)))
		}
		return append(lines, s.paint(dim, s.cut("esc back  ↑↓ scroll  q quit")))
	}
	titles, body, at := m.table(s)
	lines = append(lines, titles)
	// The selected row stays in sight, and the remark below it.
	from := max(0, at-m.rows()+2)
	body = body[from:min(len(body), from+m.rows())]
	return append(append(lines, body...), s.paint(dim, s.cut(m.footer())))
}

func (m top) summary() string {
	if m.err != nil {
		return sanitize(m.err.Error())
	}
	var slots []control.Slot
	for i := range m.apps {
		slots = append(slots, m.apps[i].app.Slots...)
	}
	t := control.Sum(slots)
	return strings.Join([]string{
		m.now.Format(time.TimeOnly), sanitize(hostname()), plural(len(m.apps), "app"), fmt.Sprintf("%d/%d ready", t.Ready, t.Wanted),
		count(t.Connections) + " conns", rate(t.RequestsPerSecond) + " req/s", "cpu " + percent(t.CPUPercent), "mem " + size(t.RSSBytes),
	}, "  ")
}

func (m top) footer() string {
	order := topSorts()[m.sort].name
	if m.reverse {
		order += " reversed"
	}
	switch {
	case m.typing:
		return "filter: " + m.filter + "█  enter keep  esc clear"
	case m.filter != "":
		return "q quit  ↑↓ select  enter details  l logs  s sort: " + order + "  esc clear filter: " + m.filter
	}
	return "q quit  ↑↓ select  enter details  l logs  s sort: " + order + "  / filter"
}

// table is the titles, then all lines, and which of these is the selected row; -1: none.
func (m top) table(s screen) (titles string, lines []string, selected int) {
	selected = -1
	rows := m.all()
	of := make([]statusRow, len(rows))
	for i, r := range rows {
		of[i] = r.row
	}
	// One table for all apps, so that its columns stand below each other.
	drawn := drawTable(s, statusColumns(m.now, queued(of)), of, nil)
	next := 0
	for _, i := range m.shownInOrder(rows) {
		lines = append(lines, m.appLine(s, i)...)
		for ; next < len(rows) && rows[next].app == i; next++ {
			if rows[next].key != m.selected {
				lines = append(lines, drawn[next+1])
				continue
			}
			selected = len(lines)
			lines = append(lines, s.paint(inverse, pad(ansi.Strip(drawn[next+1]), s.width, left)))
			if remark := rows[next].row.remark; remark != "" {
				lines = append(lines, s.paint(dim, s.cut("  "+sanitize(remark))))
			}
		}
	}
	if len(m.apps) == 0 {
		lines = append(lines, s.cut(nothingRuns))
	}
	return drawn[0], lines, selected
}

// shownInOrder are the apps in the order of the rows, then those that have none.
func (m top) shownInOrder(rows []topRow) (apps []int) {
	for _, r := range rows {
		if len(apps) == 0 || apps[len(apps)-1] != r.app {
			apps = append(apps, r.app)
		}
	}
	for _, i := range m.shown() {
		if !slices.Contains(apps, i) {
			apps = append(apps, i)
		}
	}
	return apps
}

// appLine is an app in one line, or two while it rolls.
func (m top) appLine(s screen, i int) []string {
	a := &m.apps[i]
	if a.err != nil {
		return []string{s.paint(red, s.cut(sanitize(a.at.Name+": "+a.err.Error())))}
	}
	t := &a.app.Totals
	state := fmt.Sprintf("%s %d/%d", a.app.State, t.Ready, t.Wanted)
	rest := fmt.Sprintf("  gen %d  %s conns", a.app.Generation, count(t.Connections))
	past := m.series[a.at.Path()]
	rest += sparkline(past.connections, 12) + "  " + rate(t.RequestsPerSecond) + " req/s" + sparkline(past.requests, 12)
	name := sanitize(a.at.Name) + " "
	line := s.cut(name + sanitize(state) + rest)
	if s.color {
		line = strings.Replace(line, name, s.paint(bold, name), 1)
		line = strings.Replace(line, sanitize(state), s.paint(appStyle(&a.app), sanitize(state)), 1)
	}
	lines := []string{line}
	if r := a.app.Roll; r != nil {
		lines = append(lines, s.cut(fmt.Sprintf("  %s %s", bar(r.Done, r.Of, 20), rollText(r))))
	}
	return lines
}

func bar(done, of, width int) string {
	full := width
	if of > 0 {
		full = width * max(0, min(done, of)) / of
	}
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

// sparkline draws the newest values behind a space, the highest of them as a full block;
// "" without any.
func sparkline(values []float64, width int) string {
	const blocks = "▁▂▃▄▅▆▇█"
	values = values[max(0, len(values)-width):]
	most := 0.0
	for _, v := range values {
		most = max(most, v)
	}
	if len(values) == 0 {
		return ""
	}
	steps := []rune(blocks)
	line := make([]rune, len(values))
	for i, v := range values {
		line[i] = steps[0]
		if most > 0 {
			line[i] = steps[int(v/most*float64(len(steps)-1)+0.5)]
		}
	}
	return " " + string(line)
}
