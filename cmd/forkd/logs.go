package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
	applog "github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/state"
)

// logsFlags are the flags of forkd logs.
type logsFlags struct {
	follow, json bool
	n            int
	slot         int // allSlots
	since, grep  string
}

func logsCommand(std stdio) *cobra.Command {
	var flags logsFlags
	cmd := &cobra.Command{
		Use:   "logs [-f] [-n 15] [--slot K] APP",
		Short: "show what an app's workers have written",
		Long: `logs shows what an app's workers have written, those that are gone too, and
what its master says of them: the newest lines, which the master remembers, and
with log.directory those in its files. With -f it goes on as lines come, until
Ctrl-C, the end of what reads it or the app's end.

Each line has its time, and the slot of the worker that wrote it. Escape
sequences of workers never reach the terminal. A line of more than 16 KiB is
shown as several. A worker that writes faster than it is read waits; what -f
misses then is counted.`,
		Example: `  forkd logs shop -f
  forkd logs shop -n 100 --slot 1 --since 10m --grep error`,
		Args:              exactly(1),
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := flags.query(time.Now())
			if err != nil {
				return err
			}
			return logs(cmd.Context(), std, args[0], q, flags)
		},
	}
	cmd.Flags().BoolVarP(&flags.follow, "follow", "f", false, "go on as lines come")
	cmd.Flags().IntVarP(&flags.n, "lines", "n", 15, "show the newest `N` lines")
	cmd.Flags().IntVar(&flags.slot, "slot", allSlots, "of slot `K` alone")
	cmd.Flags().Lookup("slot").DefValue = ""
	cmd.Flags().StringVar(&flags.since, "since", "", "that came since `TIME`: 10m, 15:04, 2006-01-02 15:04, or as in RFC 3339")
	cmd.Flags().StringVar(&flags.grep, "grep", "", "whose text matches `PATTERN`, a regular expression")
	cmd.Flags().BoolVar(&flags.json, "json", false, "print a JSON object a line")
	return cmd
}

// query is what the flags ask for.
func (f logsFlags) query(now time.Time) (applog.Query, error) {
	q := applog.Query{N: f.n}
	if f.n < 0 {
		return q, usage("-n %d: use 0 or more", f.n)
	}
	if f.slot != allSlots {
		if f.slot < 0 {
			return q, usage("--slot %d: use its number in forkd status", f.slot)
		}
		q.Slot = &f.slot
	}
	if f.since != "" {
		at, ok := timeSince(f.since, now)
		if !ok {
			return q, usage("--since %s: use 10m, 15:04, 2006-01-02, \"2006-01-02 15:04\" or a time as in RFC 3339", f.since)
		}
		q.Since = at
	}
	if f.grep != "" {
		re, err := regexp.Compile(f.grep)
		if err != nil {
			return q, usage("--grep: %v", err)
		}
		q.Grep = re
	}
	return q, nil
}

// timeSince reads a time, or how long ago it is. A time of the day is today's.
func timeSince(text string, now time.Time) (time.Time, bool) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), true
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, true
		}
	}
	for _, layout := range []string{time.TimeOnly, "15:04"} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			year, month, day := now.Date()
			return time.Date(year, month, day, at.Hour(), at.Minute(), at.Second(), 0, now.Location()), true
		}
	}
	return time.Time{}, false
}

func logs(ctx context.Context, std stdio, name string, q applog.Query, flags logsFlags) error {
	at, err := control.Find(name)
	if is[*control.NoAppError](err) && control.ValidName(name) {
		return stoppedLogs(std, err, name, q, flags)
	}
	if err != nil {
		return err
	}
	return connected(at, func(client *control.Client) error {
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		if flags.follow {
			ctx, stop = whileRead(ctx, std.out)
			defer stop()
		}
		err := liveLogs(ctx, std, client, q, flags)
		if errors.Is(err, context.Canceled) {
			return nil // Ctrl-C, or | head: the user has seen enough
		}
		return argumentError(at.Name, err)
	})
}

// stoppedLogs shows what the files of an app that does not run hold in the state directory.
func stoppedLogs(std stdio, gone error, name string, q applog.Query, flags logsFlags) error {
	for _, root := range state.Roots() {
		lines, err := applog.ReadFiles(filepath.Join(root, name, "log"), name, q)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s does not run, and its log can't be read: %w", name, err)
		}
		err = newLogPrinter(std, flags.json).printAll(lines)
		if err == nil && flags.follow {
			return gone
		}
		return err
	}
	return gone
}

// liveLogs shows what the master remembers, with what its files have.
func liveLogs(ctx context.Context, std stdio, client *control.Client, q applog.Query, flags logsFlags) error {
	directory, lines, err := client.Logs(ctx, q)
	if err != nil {
		return err
	}
	remembered := len(lines) > 0
	if directory != "" && !client.Foreign() { // else its files may be anything
		kept, err := applog.ReadFiles(directory, client.At().Name, q)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
			fmt.Fprintln(std.err, "forkd: "+sanitize(err.Error()))
		}
		lines = merged(kept, lines, q.N)
	}
	out := newLogPrinter(std, flags.json)
	if err := out.printAll(lines); err != nil || !flags.follow {
		return err
	}
	if len(lines) > 0 {
		q.N = followed // those that have come since
		if last := lines[len(lines)-1].Time; remembered || !last.After(time.Now()) {
			q.Since = last
		}
	}
	return client.FollowLogs(ctx, q, out.print, func(n uint64) {
		where := ""
		if directory != "" {
			where = ": they are in " + filepath.Join(directory, applog.FileName(client.At().Name))
		}
		fmt.Fprintf(std.err, "forkd: %d lines came too fast to be shown%s\n", n, sanitize(where))
	})
}

// followed is how many lines may come between the answer and the stream.
const followed = 1000

// merged are the newest n of the lines in an app's files and of those that its master
// remembers, of which some are in both: no two of one master have the same time. Those in the
// files from later than the master's newest have come since, or an earlier master's clock was
// ahead: then they come first.
func merged(kept, remembered []applog.Line, n int) []applog.Line {
	var ahead []applog.Line
	if len(remembered) > 0 {
		last := remembered[len(remembered)-1].Time
		kept = slices.DeleteFunc(kept, func(l applog.Line) bool {
			if l.Time.After(last.Add(time.Minute)) {
				ahead = append(ahead, l)
			}
			return l.Time.After(last)
		})
	}
	lines := append(kept, remembered...)
	slices.SortStableFunc(lines, func(a, b applog.Line) int { return a.Time.Compare(b.Time) })
	lines = slices.CompactFunc(lines, func(a, b applog.Line) bool { return a.Time.Equal(b.Time) })
	lines = append(ahead, lines...)
	return lines[max(0, len(lines)-n):]
}

// logPrinter prints lines of a log.
type logPrinter struct {
	out      output
	screen   screen
	terminal bool
	escapes  *regexp.Regexp
}

func newLogPrinter(std stdio, asJSON bool) *logPrinter {
	s := screenOf(std.out)
	return &logPrinter{
		out:      output{to: std.out, what: "log", json: asJSON, compact: true},
		screen:   s,
		terminal: s.height > 0,
		escapes:  applog.ControlSequences(),
	}
}

func (p *logPrinter) print(l applog.Line) error {
	return p.out.print(l, func(screen) []string { return []string{p.line(l)} })
}

func (p *logPrinter) printAll(lines []applog.Line) error {
	for _, l := range lines {
		if err := p.print(l); err != nil {
			return err
		}
	}
	return nil
}

// line is "TIME 1 | TEXT" of a worker in slot 1, or "TIME forkd | TEXT" of the master.
func (p *logPrinter) line(l applog.Line) string {
	at := l.Time.Format("2006-01-02T15:04:05.000Z07:00")
	if p.terminal {
		at = clock(l.Time, time.Now())
	}
	from, how := applog.Forkd, plain
	switch {
	case l.Level == applog.LevelWarning:
		how = yellow
	case l.Level == applog.LevelError:
		how = red
	case l.Stream != applog.Forkd && l.Slot != nil:
		from = strconv.Itoa(*l.Slot)
	}
	if l.Level != "" && l.Level != applog.LevelInfo {
		from += " " + sanitize(l.Level)
	}
	return p.screen.paint(dim, at+" "+from+" |") + " " + p.screen.paint(how, sanitize(p.escapes.ReplaceAllString(l.Line, "")))
}
