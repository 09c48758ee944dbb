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
)

func eventsCommand(std stdio) *cobra.Command {
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use:   "events APP",
		Short: "show what has happened to an app",
		Long: `events shows what has happened to an app, as far back as its master remembers.
With -f it goes on as things happen, until Ctrl-C, the end of what reads it or
the app's end; it exits 4 when the master vanishes.`,
		Example: `  forkd events shop -f
  forkd events shop --json`,
		Args:              exactly(1),
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withApp(cmd, args, func(client *control.Client) error {
				return events(cmd.Context(), std, client, follow, asJSON)
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as things happen")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object a line")
	return cmd
}

func events(ctx context.Context, std stdio, client *control.Client, follow, asJSON bool) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if follow {
		ctx, stop = whileRead(ctx, std.out)
		defer stop()
	}
	out := output{to: std.out, what: "events", json: asJSON, compact: true}
	last := uint64(0)
	err := client.Events(ctx, "", follow, func(_ string, e control.Event) error {
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
	if e.Reason != "" {
		text.WriteString(": " + sanitize(e.Reason))
	}
	return text.String()
}

func eventStyle(kind string) style {
	switch kind {
	case control.EventCrashed, control.EventFailed, control.EventRollFailed, control.EventRolledBack, control.EventOverloaded:
		return red
	case control.EventBackoff, control.EventDraining, control.EventLeftover, control.EventStalled, control.EventReplaceFailed,
		control.EventListeningAgain, control.EventSocketSpoilt, control.EventPortShared, fleet.EventUnreadable:
		return yellow
	case control.EventReady, control.EventRollDone, control.EventUp, control.EventResumed, control.EventRecovered:
		return green
	default:
		return plain
	}
}
