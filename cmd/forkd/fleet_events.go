package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/fleet"
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
			return from.withFleet(cmd.Context(), args[0], func(ctx context.Context, r fleetReader, where string) error {
				return fleetEvents(ctx, std, r, args[0], where, follow, asJSON)
			})
		},
	}
	from.registerReading(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as things happen")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object a line")
	return cmd
}

// fleetEvents prints what the stream has, and with follow what comes. An app without
// events and hosts is not reported.
func fleetEvents(ctx context.Context, std stdio, r fleetReader, app, where string, follow, asJSON bool) error {
	if follow {
		var stop context.CancelFunc
		ctx, stop = whileRead(ctx, std.out)
		defer stop()
	}
	out := output{to: std.out, what: "events", json: asJSON, compact: true}
	gaps, last := gaps{}, ""
	each := func(e fleet.Entry) error {
		last = e.ID
		if n := gaps.before(e); n > 0 {
			fmt.Fprintf(std.err, "forkd: %d events of %s were missed: they are not in Redis\n", n, sanitize(e.Host))
		}
		return out.print(e, func(s screen) []string {
			return []string{formatEvent(s, e.Event, clock(e.Time, time.Now())+" "+sanitize(e.Host))}
		})
	}
	err := r.Events(ctx, app, "", false, each)
	if err == nil && last == "" {
		var f fleet.Fleet
		if f, err = r.Fleet(ctx, app, false); err == nil && len(f.Hosts) == 0 {
			err = unreported(app, where)
		}
	}
	if err == nil && follow {
		err = r.Events(ctx, app, last, true, each)
	}
	if ctx.Err() != nil {
		return nil // Ctrl-C, or | head: the user has seen enough
	}
	return err
}

// gaps finds events that are not there, by the last of each host.
type gaps map[string]fleet.Entry

func (g gaps) before(e fleet.Entry) uint64 {
	const most = 100_000 // hosts
	if e.Seq == 0 || e.Host == "" {
		return 0
	}
	last, seen := g[e.Host]
	if len(g) > most {
		clear(g)
	}
	g[e.Host] = e
	if !seen || last.Boot != e.Boot || e.Seq <= last.Seq+1 {
		return 0
	}
	return e.Seq - last.Seq - 1
}
