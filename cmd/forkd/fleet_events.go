package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/redisconfig"
)

func fleetEventsCommand(std stdio) *cobra.Command {
	var from redisFlags
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use:   "events APP",
		Short: "show what has happened to an app on all its hosts",
		Long: `events shows what has happened to an app on all its hosts, as far back as Redis
keeps it: about 10000 events. With -f it goes on as things happen, until Ctrl-C
or the end of what reads it.`,
		Example: `  forkd fleet events shop -f
  forkd fleet events shop --json --redis rediss://redis.example`,
		Args:              exactly(1),
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			app := args[0]
			if err := redisconfig.CheckApp(app); err != nil {
				return usage("%v", err)
			}
			return from.withFleet(cmd.Context(), app, func(ctx context.Context, r fleetReader, where string) error {
				return fleetEvents(ctx, std, r, app, where, follow, asJSON)
			})
		},
	}
	from.registerReading(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as things happen")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object a line")
	return cmd
}

func fleetEvents(ctx context.Context, std stdio, r fleetReader, app, where string, follow, asJSON bool) error {
	if err := reported(ctx, r, app, where); err != nil {
		return err
	}
	if follow {
		var stop context.CancelFunc
		ctx, stop = whileRead(ctx, std.out)
		defer stop()
	}
	out := output{to: std.out, what: "events", json: asJSON, compact: true}
	var gaps gaps
	err := r.Events(ctx, app, "", follow, func(e fleet.Entry) error {
		if n := gaps.before(e); n > 0 {
			fmt.Fprintf(std.err, "forkd: %d events of %s were missed: they are not in Redis\n", n, sanitize(e.Host))
		}
		return out.print(e, func(s screen) []string { return []string{fleetEventLine(s, e, time.Now())} })
	})
	if ctx.Err() != nil {
		return nil // Ctrl-C, or | head: the user has seen enough
	}
	if is[*exit](err) {
		return err
	}
	return redisError(where, err)
}

// reported returns an error unless the app is known to Redis: it has hosts, or it
// had some not long ago.
func reported(ctx context.Context, r fleetReader, app, where string) error {
	f, err := r.Fleet(ctx, app, false)
	if err != nil {
		return redisError(where, err)
	}
	if len(f.Hosts) > 0 {
		return nil
	}
	known := errors.New("there is an event")
	err = r.Events(ctx, app, "", false, func(fleet.Entry) error { return known })
	switch {
	case errors.Is(err, known):
		return nil
	case err != nil:
		return redisError(where, err)
	default:
		return unreported(app, where)
	}
}

// fleetEventLine is an event of some host: "15:04:05 web-1 ready slot 1 pid 77: why".
func fleetEventLine(s screen, e fleet.Entry, now time.Time) string {
	return formatEvent(s, e.Event, clock(e.Time, now)+" "+sanitize(e.Host))
}

// gaps finds events that are not there, by the last of each host.
type gaps struct {
	last map[string]fleet.Entry
}

// before is how many events are missing before one.
func (g *gaps) before(e fleet.Entry) uint64 {
	const most = 100_000 // hosts
	if e.Seq == 0 || e.Host == "" {
		return 0
	}
	last, seen := g.last[e.Host]
	if g.last == nil || len(g.last) > most {
		g.last = map[string]fleet.Entry{}
	}
	g.last[e.Host] = e
	if !seen || last.Boot != e.Boot || e.Seq <= last.Seq+1 {
		return 0
	}
	return e.Seq - last.Seq - 1
}
