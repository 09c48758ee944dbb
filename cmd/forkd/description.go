package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/config"
	"github.com/forkd/forkd/internal/control"
)

// What a description shows of long histories; --json has all of them.
const (
	exitsShown  = 5
	rollsShown  = 5
	outputShown = 8 // lines of each exit; all of them for one slot
)

func description(s screen, title string, d *control.Description, slot int, now time.Time) []string {
	lines := s.pastOf(statusTable(s, title, &d.App, now), d, slot, now)
	section := func(heading string, body []string) { lines = s.section(lines, heading, body) }
	if slot == allSlots {
		section("release", s.keyValues(release(d)))
		section("master", s.keyValues(master(d, now)))
		section("environment", s.keyValues([][2]string{{"names", strings.Join(d.Env, " ")}}))
		section("learned listeners, as a file would declare them", learned(d.Listeners))
		var set []control.Setting
		var defaults [][2]string
		for _, setting := range d.Settings {
			if setting.Source == "default" {
				defaults = append(defaults, [2]string{setting.Key, setting.Value})
			} else {
				set = append(set, setting)
			}
		}
		section("settings", s.settings(set))
		section("settings that nobody has changed", s.keyValues(defaults))
	}
	return lines
}

// pastOf adds rolls and exits to lines, crashes before drains.
func (s screen) pastOf(lines []string, d *control.Description, slot int, now time.Time) []string {
	if slot == allSlots {
		lines = s.section(lines, "rolls", s.rolls(d.Rolls, now))
	}
	var crashes, exits []control.Exit
	for _, e := range d.History {
		if e.Crashed {
			crashes = append(crashes, e)
		} else {
			exits = append(exits, e)
		}
	}
	lines = s.section(lines, "crashes", s.exits(crashes, slot, now))
	return s.section(lines, "exits", s.exits(exits, slot, now))
}

// section adds a heading and its lines, if there are any.
func (s screen) section(lines []string, heading string, body []string) []string {
	if len(body) == 0 {
		return lines
	}
	return append(append(lines, "", s.paint(bold, heading)), body...)
}

func release(d *control.Description) [][2]string {
	return [][2]string{
		{"generation", strconv.Itoa(d.Release.Generation)},
		{"directory", d.Release.Directory},
		{"executable", d.Release.Executable},
		{"command", config.CommandLine(d.Release.Command)},
		{"ready when", d.Readiness},
		{"sockets", d.Sockets},
	}
}

func master(d *control.Description, now time.Time) [][2]string {
	pairs := [][2]string{
		{"pid", strconv.Itoa(d.PID)},
		{"version", d.Version},
		{"since", fmt.Sprintf("%s (%s)", clock(d.StartedAt, now), age(now.Sub(d.StartedAt)))},
		{"file", d.Config},
	}
	for _, l := range d.Listeners {
		text := l.Address + ", " + l.Mode
		if l.Balance != "" && l.Mode == "reuseport" {
			text += ", balance " + l.Balance
		}
		if l.Source != "" {
			text += ", " + l.Source
		}
		pairs = append(pairs, [2]string{"listener " + l.Name, text})
	}
	return append(pairs, [2]string{"messages", fmt.Sprintf("%d sent, %d dropped", d.Messages.Sent, d.Messages.Dropped)})
}

// learned is the [[listen]] for each listener that the app has learned.
func learned(all []control.Listener) (lines []string) {
	for _, l := range all {
		if l.Source == "learned" {
			lines = append(lines, "  [[listen]]", "  name = "+config.BasicString(l.Name), "  address = "+config.BasicString(l.Address))
		}
	}
	return lines
}

// settings is a line for each key, with its value and the source of that.
func (s screen) settings(all []control.Setting) []string {
	const widest = 30 // longer values push their sources to the right
	width := 0
	for _, setting := range all {
		if n := columnsOf(sanitize(setting.Value)); n <= widest {
			width = max(width, n)
		}
	}
	pairs := make([][2]string, len(all))
	for i, setting := range all {
		pairs[i] = [2]string{setting.Key, pad(sanitize(setting.Value), width, left) + "  " + setting.Source}
	}
	return s.keyValues(pairs)
}

func (s screen) rolls(all []control.RollRecord, now time.Time) []string {
	lines, all := latest(s, all, rollsShown)
	for _, r := range all {
		result := control.Rolled{Generation: r.Generation, Result: r.Result, Error: r.Error, Fault: r.Fault}
		by := ""
		if r.By != "" {
			by = ", by " + r.By
		}
		text := fmt.Sprintf("%s to generation %d%s, %s: %s", clock(r.EndedAt, now), r.Generation, by, brief(r.EndedAt.Sub(r.StartedAt)), resultText(result))
		lines = append(lines, s.wrap(sanitize(text))...)
	}
	return lines
}

func (s screen) exits(all []control.Exit, slot int, now time.Time) []string {
	lines, all := latest(s, all, exitsShown)
	for _, e := range all {
		text := fmt.Sprintf("%s slot %d generation %d pid %d: %s", clock(e.At, now), e.Slot, e.Generation, e.PID, e.Reason)
		if e.ReadyFor != nil {
			text += ", ready for " + brief(time.Duration(*e.ReadyFor*float64(time.Second)))
		} else {
			text += ", never ready"
		}
		lines = append(lines, s.wrap(sanitize(text))...)
		output := e.Output
		if slot == allSlots {
			output = tellingLines(output, outputShown)
		}
		for _, line := range s.quoted("    ", output) {
			lines = append(lines, s.paint(dim, line))
		}
	}
	return lines
}

// quoted are a worker's lines; a long one takes several of the screen.
func (s screen) quoted(indent string, output []string) (lines []string) {
	const most = 5 // of the screen
	for _, line := range output {
		line = screen{width: most * s.width}.cut(sanitize(line))
		lines = append(lines, s.wrapIndent(indent+"| ", indent+"|   ", line)...)
	}
	return lines
}

// latest cuts a history to its last entries; a line says how many are left out.
func latest[T any](s screen, all []T, most int) ([]string, []T) {
	if len(all) <= most {
		return nil, all
	}
	earlier := len(all) - most
	return []string{s.paint(dim, s.cut(fmt.Sprintf("  %d earlier: see --json", earlier)))}, all[earlier:]
}
