package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/forkd/forkd/internal/control"
)

// shownTop is a model that has seen apps, on a screen of 24 rows.
func shownTop(width int, apps ...appStatus) top {
	m := top{width: width, height: 24, detail: func(at control.Location, slot, _ int) ([]string, error) {
		return []string{fmt.Sprint(at.Name, " ", slot)}, nil
	}}
	return m.take(looked{apps: apps, at: noon})
}

func appAt(name string, app control.App) appStatus {
	app.App = name
	return appStatus{at: control.Location{Name: name, Dir: "/run/forkd"}, app: app}
}

// typed presses keys, one after another, and runs what they ask for.
func typed(t *testing.T, m top, keys ...string) top {
	t.Helper()
	for _, key := range keys {
		press := tea.KeyPressMsg{Text: key, Code: []rune(key)[0]}
		if code, ok := map[string]rune{"up": tea.KeyUp, "down": tea.KeyDown, "enter": tea.KeyEnter, "esc": tea.KeyEscape, "backspace": tea.KeyBackspace}[key]; ok {
			press = tea.KeyPressMsg{Code: code}
		}
		next, then := m.Update(press)
		m = next.(top)
		if then == nil {
			continue
		}
		if said, ok := then().(described); ok {
			next, _ = m.Update(said)
			m = next.(top)
		}
	}
	return m
}

func screenText(m top) string {
	return strings.Join(m.draw(screen{width: m.width, height: m.height}), "\n")
}

// What a host looks like on screens of several sizes: no line is wider than the screen,
// and none is below it.
func TestTopFits(t *testing.T) {
	all := tables()
	hung := appStatus{at: control.Location{Name: "hung", Dir: "/run/forkd"}, err: errors.New("hung (pid 7) does not answer: no answer within 5s")}
	for _, width := range []int{40, 80, 200} {
		m := shownTop(width, appAt("shop", all["rolling"]), hung, appAt("web", all["ailing"]))
		for range 30 {
			m = m.take(looked{apps: m.apps, at: noon})
		}
		m = typed(t, m, "down", "down", "down", "down", "down", "down", "down", "down")
		name := fmt.Sprintf("top-%d.txt", width)
		got := strings.ReplaceAll(screenText(m), hostname(), "HOST")
		if width == 80 {
			golden(t, filepath.Join("testdata", "table", name), strings.Split(got, "\n"))
		}
		for _, height := range []int{2, 5, 12, 24} {
			for _, keys := range [][]string{nil, {"enter"}, {"/", "s", "h"}} {
				small := m
				small.height = height
				small = typed(t, small, keys...)
				lines := strings.Split(screenText(small), "\n")
				if len(lines) > max(height, 4) {
					t.Errorf("%dx%d %v: %d lines", width, height, keys, len(lines))
				}
				for _, line := range lines {
					if columnsOf(line) > width {
						t.Errorf("%dx%d %v: %d columns: %s", width, height, keys, columnsOf(line), line)
					}
				}
			}
		}
	}
}

func TestTopSelectsAndSorts(t *testing.T) {
	quiet, loud := busy(11, 1, control.StateReady, time.Hour), busy(12, 1, control.StateReady, time.Hour)
	quiet.Connections, quiet.CPUPercent = new(int64(1)), nil
	m := shownTop(100, appAt("a", shop(slot(0, quiet), slot(1, loud))), appAt("b", shop(slot(0, busy(21, 1, control.StateReady, time.Hour)))))
	order := func(m top) string {
		var pids []string
		for _, r := range m.all() {
			pids = append(pids, fmt.Sprint(r.row.worker.PID))
		}
		return strings.Join(pids, " ")
	}
	for _, c := range []struct {
		keys []string
		want string
	}{
		{nil, "11 12 21"},
		{[]string{"s"}, "12 11 21"},           // a has more connections
		{[]string{"s", "r"}, "21 11 12"},      // the fewest first
		{[]string{"s", "s", "s"}, "21 12 11"}, // by CPU: what is not known comes last
		{[]string{"/", "b", "enter"}, "21"},
		{[]string{"/", "b", "x", "backspace", "enter", "esc"}, "11 12 21"},
	} {
		if got := order(typed(t, m, c.keys...)); got != c.want {
			t.Errorf("%v: %s, want %s", c.keys, got, c.want)
		}
	}
	// The selected slot stays selected when its worker is replaced.
	m = typed(t, m, "down", "down")
	m = m.take(looked{apps: []appStatus{appAt("a", shop(slot(0, quiet), slot(1, loud, busy(13, 2, control.StateReady, time.Second))))}, at: noon})
	if m = typed(t, m, "enter"); len(m.open) != 1 || m.open[0] != "a 1" {
		t.Errorf("details %q", m.open)
	}
	if m = typed(t, m, "enter"); m.open != nil {
		t.Error("still open")
	}
	long := strings.TrimSpace(strings.Repeat("word ", 40)) // a line is read to its end
	m.logs = func(_ control.Location, _, _ int) ([]string, error) { return []string{long}, nil }
	m = typed(t, m, "l")
	if got := strings.Join(strings.Fields(strings.Join(m.open, " ")), " "); got != long || columnsOf(m.open[0]) > m.width {
		t.Errorf("logs %q", m.open)
	}
	m = typed(t, m, "esc")
	m.logs = func(_ control.Location, _, _ int) ([]string, error) { return nil, errors.New("gone") }
	if m = typed(t, m, "l"); len(m.open) != 1 || m.open[0] != "gone" {
		t.Errorf("logs %q", m.open)
	}
	if m = typed(t, m, "esc"); m.open != nil {
		t.Error("still open")
	}
	if _, then := m.Update(tea.KeyPressMsg{Text: "q", Code: 'q'}); then == nil || then() != tea.Quit() {
		t.Error("q does not end it")
	}
}

func TestSparkline(t *testing.T) {
	for want, values := range map[string][]float64{"": nil, " ▁▁": {0, 0}, " ▁▅█": {0, 5, 10}, " ▁█": {9, 9, 0, 3}} {
		if got := sparkline(values, max(1, columnsOf(want)-1)); got != want {
			t.Errorf("%v: %q, want %q", values, got, want)
		}
	}
	for _, c := range []struct {
		done, of int
		want     string
	}{{0, 4, "░░░░"}, {1, 2, "██░░"}, {9, 4, "████"}, {0, 0, "████"}} {
		if got := bar(c.done, c.of, 4); got != c.want {
			t.Errorf("%d of %d: %s, want %s", c.done, c.of, got, c.want)
		}
	}
}

// Keys that are about a worker take the first where none is selected.
func TestTopSelectsTheFirst(t *testing.T) {
	m := typed(t, shownTop(80, appAt("shop", tables()["rolling"])), "enter")
	if got := strings.Join(m.open, ""); got != "shop 0" {
		t.Errorf("enter shows %q", got)
	}
}
