package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
	applog "github.com/forkd/forkd/internal/output"
)

func topCommand(std stdio) *cobra.Command {
	return &cobra.Command{
		Use:     "top [APP]",
		Aliases: []string{"monit"},
		Short:   "watch all apps of this host, live",
		Long: `top shows all apps of this host, or one, and their workers, again each second.

  up, down, k, j   select a worker      enter   its details: forkd describe
  s                sort by the next     l       its newest lines: forkd logs
  r                in reverse           /       filter by app
  q                quit`,
		Args:              between(0, 1),
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if s := screenOf(std.out); s.height == 0 {
				return usage("top needs a terminal: use forkd status")
			}
			name := strings.Join(args, "")
			if _, err := query(cmd.Context(), name); err != nil {
				return err
			}
			m := top{
				color: screenOf(std.out).color,
				look: func() ([]appStatus, error) {
					apps, _, err := glance(cmd.Context(), name)
					return apps, err
				},
				detail: func(at control.Location, slot, width int) ([]string, error) {
					return describeSlot(cmd.Context(), at, slot, width)
				},
				logs: func(at control.Location, slot, _ int) ([]string, error) {
					return logsOfSlot(cmd.Context(), at, slot)
				},
			}
			_, err := tea.NewProgram(m, tea.WithContext(cmd.Context()), tea.WithInput(std.in), tea.WithOutput(std.out), tea.WithFPS(topFPS)).Run()
			if err == nil || errors.Is(err, tea.ErrInterrupted) {
				return nil
			}
			return fmt.Errorf("cannot draw: %w", err)
		},
	}
}

const (
	topInterval = time.Second
	topFPS      = 20 // frames a second at most: keys are answered at this pace
	topHistory  = 60 // samples of a sparkline
	topLines    = 200
)

// describeSlot is `forkd describe APP SLOT` in lines.
func describeSlot(ctx context.Context, at control.Location, slot, width int) (lines []string, err error) {
	err = connected(at, func(client *control.Client) error {
		d, err := client.Describe(ctx)
		if err == nil {
			err = keepSlot(&d, slot)
		}
		lines = description(screen{width: width}, at.Name, &d, slot, time.Now())
		return err
	})
	return lines, err
}

// logsOfSlot is `forkd logs APP --slot K` in lines, as far as the master remembers.
func logsOfSlot(ctx context.Context, at control.Location, slot int) (lines []string, err error) {
	printer := logPrinter{terminal: true, escapes: applog.ControlSequences()}
	err = connected(at, func(client *control.Client) error {
		_, found, err := client.Logs(ctx, applog.Query{N: topLines, Slot: &slot})
		for _, l := range found {
			lines = append(lines, printer.line(l))
		}
		return err
	})
	return lines, err
}

// top is the model of bubbletea: what is known, and what is shown of it.
type top struct {
	look   func() ([]appStatus, error)
	detail func(at control.Location, slot, width int) ([]string, error)
	logs   func(at control.Location, slot, width int) ([]string, error)

	width, height int
	color         bool
	now           time.Time
	apps          []appStatus
	err           error
	series        map[string]*series // by the app's path

	sort     int // index of topSorts
	reverse  bool
	filter   string
	typing   bool // the filter
	selected topKey
	open     []string // a worker's details; nil: the table
	scroll   int      // of these
}

// series are an app's newest figures, the oldest first.
type series struct{ connections, requests []float64 }

func (s *series) add(t *control.Totals) {
	for to, value := range map[*[]float64]*float64{&s.connections: asFloat(t.Connections), &s.requests: t.RequestsPerSecond} {
		if value == nil {
			*to = nil // what is not known is no 0
			continue
		}
		*to = append(*to, *value)
		*to = (*to)[max(0, len(*to)-topHistory):]
	}
}

func asFloat(n *int64) *float64 {
	if n == nil {
		return nil
	}
	return new(float64(*n))
}

// topKey names a row whatever worker is there: the newest of a slot is 0, its draining
// predecessor 1.
type topKey struct {
	path string
	slot int // -1: of leftovers whose slot is not known
	age  int
}

// The messages to the model.
type (
	looked struct {
		apps []appStatus
		err  error
		at   time.Time
	}
	described struct {
		lines []string
		err   error
	}
	lookAgain struct{}
)

func (m top) Init() tea.Cmd { return m.ask() }

func (m top) ask() tea.Cmd {
	return func() tea.Msg {
		apps, err := m.look()
		return looked{apps, err, time.Now()}
	}
}

func (m top) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case looked:
		m = m.take(msg)
		return m, tea.Tick(topInterval, func(time.Time) tea.Msg { return lookAgain{} })
	case lookAgain:
		return m, m.ask()
	case described:
		if msg.err != nil {
			msg.lines = []string{msg.err.Error()}
		}
		m.open, m.scroll = nil, 0
		for _, line := range msg.lines {
			m.open = append(m.open, screen{width: m.width}.wrapIndent("", "    ", sanitize(line))...)
		}
	case tea.KeyPressMsg:
		return m.press(msg)
	}
	return m, nil
}

func (m top) take(l looked) top {
	m.apps, m.err, m.now = l.apps, l.err, l.at
	old := m.series
	m.series = map[string]*series{}
	for i := range m.apps {
		if m.apps[i].err != nil {
			continue
		}
		path := m.apps[i].at.Path()
		if m.series[path] = old[path]; old[path] == nil {
			m.series[path] = new(series)
		}
		m.series[path].add(&m.apps[i].app.Totals)
	}
	return m
}

func (m top) press(key tea.KeyPressMsg) (tea.Model, tea.Cmd) {
	if m.typing {
		switch key.String() {
		case "enter":
			m.typing = false
		case "esc":
			m.typing, m.filter = false, ""
		case "backspace":
			m.filter = m.filter[:max(0, len(m.filter)-1)]
		case "ctrl+c":
			return m, tea.Quit
		default:
			if len(m.filter) < control.MaxName && control.ValidName("a"+key.Text) {
				m.filter += key.Text
			}
		}
		return m, nil
	}
	switch key.String() {
	case "q", "ctrl+c":
		return m, tea.Quit
	case "esc":
		m.open, m.filter = nil, ""
	case "up", "k":
		return m.move(-1), nil
	case "down", "j":
		return m.move(1), nil
	case "pgup":
		return m.move(1 - m.rows()), nil
	case "pgdown", "space":
		return m.move(m.rows() - 1), nil
	case "s":
		m.sort = (m.sort + 1) % len(topSorts())
	case "r":
		m.reverse = !m.reverse
	case "/":
		m.typing, m.filter, m.open = true, "", nil
	case "enter":
		return m.show(m.detail)
	case "l":
		return m.show(m.logs)
	}
	return m, nil
}

func (m top) show(what func(at control.Location, slot, width int) ([]string, error)) (tea.Model, tea.Cmd) {
	if m.open != nil {
		m.open = nil
		return m, nil
	}
	m = m.move(0) // the first, where none is selected
	for _, r := range m.all() {
		if r.key == m.selected && r.key.slot >= 0 {
			at, slot := m.apps[r.app].at, r.key.slot
			return m, func() tea.Msg {
				lines, err := what(at, slot, m.width)
				if len(lines) == 0 {
					lines = []string{"nothing"}
				}
				return described{lines, err}
			}
		}
	}
	return m, nil
}

// rows is how many lines of the screen are left for the table, or the details.
func (m top) rows() int { return max(1, m.height-3) }

// move selects another row, or scrolls the details.
func (m top) move(by int) top {
	if m.open != nil {
		m.scroll = max(0, min(m.scroll+by, len(m.open)-m.rows()))
		return m
	}
	all := m.all()
	at := slices.IndexFunc(all, func(r topRow) bool { return r.key == m.selected })
	if len(all) > 0 {
		m.selected = all[max(0, min(at+by, len(all)-1))].key
	}
	return m
}

type topRow struct {
	app int
	key topKey
	row statusRow
}

// topSort orders rows by a figure, the highest first; nil: by slot.
type topSort struct {
	name   string
	figure func(w *control.Worker) *float64
	total  func(t *control.Totals) *float64
}

func topSorts() []topSort {
	return []topSort{
		{name: "slot"},
		{"connections", func(w *control.Worker) *float64 { return asFloat(w.Connections) }, func(t *control.Totals) *float64 { return asFloat(t.Connections) }},
		{"requests", func(w *control.Worker) *float64 { return w.RequestsPerSecond }, func(t *control.Totals) *float64 { return t.RequestsPerSecond }},
		{"cpu", func(w *control.Worker) *float64 { return w.CPUPercent }, func(t *control.Totals) *float64 { return t.CPUPercent }},
		{"memory", func(w *control.Worker) *float64 { return asFloat(w.RSSBytes) }, func(t *control.Totals) *float64 { return asFloat(t.RSSBytes) }},
	}
}

// all lists the rows that are shown, in their order: apps, and workers in each.
func (m top) all() (rows []topRow) {
	by := topSorts()[m.sort]
	apps := m.shown()
	if by.total != nil {
		slices.SortStableFunc(apps, func(a, b int) int {
			return m.compare(by.total(&m.apps[a].app.Totals), by.total(&m.apps[b].app.Totals))
		})
	}
	for _, i := range apps {
		app := &m.apps[i].app
		var of []topRow
		add := func(slot int, rows ...statusRow) {
			for k, row := range rows {
				of = append(of, topRow{i, topKey{m.apps[i].at.Path(), slot, len(rows) - 1 - k}, row})
			}
		}
		for k := range app.Slots {
			add(app.Slots[k].Slot, slotRows(&app.Slots[k], m.now)...)
		}
		var left []statusRow
		for k := range app.Leftovers {
			left = append(left, leftoverRow(&app.Leftovers[k], m.now))
		}
		add(-1, left...)
		if by.figure != nil {
			slices.SortStableFunc(of, func(a, b topRow) int { return m.compare(by.figure(&a.row.worker), by.figure(&b.row.worker)) })
		}
		rows = append(rows, of...)
	}
	return rows
}

// shown are the places of the apps that the filter leaves.
func (m top) shown() (apps []int) {
	for i := range m.apps {
		if strings.Contains(m.apps[i].at.Name, m.filter) {
			apps = append(apps, i)
		}
	}
	return apps
}

// compare puts the higher first, and what is not known last.
func (m top) compare(a, b *float64) int {
	order := 0
	switch {
	case a == nil && b == nil:
	case a == nil:
		return 1
	case b == nil:
		return -1
	case *a > *b:
		order = -1
	case *a < *b:
		order = 1
	}
	if m.reverse {
		return -order
	}
	return order
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return unknown
	}
	return name
}
