package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/state"
)

func eventsCommand(std stdio) *cobra.Command {
	var follow, asJSON bool
	var lines uint
	cmd := &cobra.Command{
		Use:   "events APP",
		Short: "show what has happened to an app",
		Long: `events shows what has happened to an app, also before its master started, and
when none runs, as far as its state directory keeps it. With -f it goes on as
things happen, until Ctrl-C, the end of what reads it or the app's end; it exits
4 when the master vanishes, 3 when there is none.`,
		Example: `  forkd events shop -f
  forkd events shop --json`,
		Args:              exactly(1),
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			out := output{to: std.out, what: "events", json: asJSON, compact: true}
			err := withApp(cmd, args, func(client *control.Client) error {
				return events(cmd.Context(), std, out, client, follow, lines)
			})
			return withoutMaster(std, err, func(h state.History) error {
				if err := printEvents(out, earlier(h, "", lines)); err != nil || !follow {
					return err
				}
				return &exit{exitNoApp, fmt.Sprintf("%s does not run: %s", args[0], lastWords(h, time.Now()))}
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as things happen")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object a line")
	cmd.Flags().UintVarP(&lines, "lines", "n", 200, "show `N` events from before the master's start at most")
	return cmd
}

// printEvents prints events of an earlier life.
func printEvents(out output, all []control.Event) error {
	for _, e := range all {
		if err := out.print(e, func(s screen) []string { return []string{eventLine(s, e, time.Now())} }); err != nil {
			return err
		}
	}
	return nil
}

func events(ctx context.Context, std stdio, out output, client *control.Client, follow bool, lines uint) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if follow {
		ctx, stop = whileRead(ctx, std.out)
		defer stop()
	}
	last := uint64(0)
	err := client.Events(ctx, "", follow, func(id string, e control.Event) error {
		if last == 0 && !client.Foreign() {
			boot, _, _ := strings.Cut(id, "-")
			h, _ := keptOf(std, client.At().Name) // none: then this is all
			if err := printEvents(out, earlier(h, boot, lines)); err != nil {
				return err
			}
		}
		if last != 0 && e.Seq > last+1 {
			fmt.Fprintf(std.err, "forkd: %d events were missed: the app had more than it keeps\n", e.Seq-last-1)
		}
		last = e.Seq
		return out.print(e, func(s screen) []string { return []string{eventLine(s, e, time.Now())} })
	})
	if errors.Is(err, context.Canceled) {
		return nil // Ctrl-C, or | head: the user has seen enough
	}
	return err
}

// eventLine is an event in a line: "15:04:05 ready slot 1 generation 2 pid 77: why".
func eventLine(s screen, e control.Event, now time.Time) string {
	return formatEvent(s, e, clock(e.Time, now))
}

// formatEvent is an event in a line that begins with a prefix.
func formatEvent(s screen, e control.Event, prefix string) string {
	var text strings.Builder
	text.WriteString(prefix + " " + s.paint(eventStyle(e.Type), sanitize(e.Type)))
	for _, of := range []struct {
		what   string
		number *int
	}{{"slot", e.Slot}, {"generation", e.Generation}, {"pid", e.PID}} {
		if of.number != nil {
			fmt.Fprintf(&text, " %s %d", of.what, *of.number)
		}
	}
	if e.Command != "" {
		text.WriteString(": command " + sanitize(e.Command))
	}
	if e.By != "" {
		text.WriteString(" by " + sanitize(e.By))
	}
	if e.Reason != "" {
		text.WriteString(": " + sanitize(e.Reason))
	}
	return text.String()
}

func eventStyle(kind string) style {
	switch kind {
	case control.EventCrashed, control.EventFailed, control.EventRollFailed, control.EventRolledBack, control.EventFellBack, control.EventOverloaded:
		return red
	case control.EventBackoff, control.EventDraining, control.EventLeftover, control.EventStalled, control.EventReplaceFailed,
		control.EventListeningAgain, control.EventSocketSpoilt, control.EventPortShared, control.EventTerminalClosed, fleet.EventUnreadable:
		return yellow
	case control.EventReady, control.EventRollDone, control.EventUp, control.EventResumed, control.EventRecovered:
		return green
	default:
		return plain
	}
}
