package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/fleet"
)

type fleetView struct {
	app                  string // "": all
	workers, json, watch bool
	where                string // Redis
}

func fleetStatusCommand(std stdio) *cobra.Command {
	var from redisFlags
	var v fleetView
	cmd := &cobra.Command{
		Use:     "status [APP]",
		Aliases: []string{"ls", "list", "ps"},
		Short:   "show the hosts of an app, or of all apps",
		Long: `status shows the hosts that report an app: CONNS are open connections, of the
CAP that a host can hold (redis.connection_limit_per_host), UTIL is their share,
REQS the requests since its start, AGE the time since its last report. A figure
that is not known is -.

A host that has missed reports is stale; one whose report has run out, without
its leave, has vanished. Two hosts with one id are twins. * marks a generation
that is not the newest.`,
		Example: `  forkd fleet status shop
  forkd fleet status shop --workers --watch
  forkd fleet status --json --redis unix:///run/redis/redis.sock`,
		Args:              between(0, 1),
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if v.json && v.watch {
				return usage("use only one of --json and --watch: see forkd fleet status --help")
			}
			v.app = strings.Join(args, "")
			return from.withFleet(cmd.Context(), v.app, func(ctx context.Context, r fleetReader, where string) error {
				v.where = where
				return v.show(ctx, std, r)
			})
		},
	}
	from.registerReading(cmd)
	cmd.Flags().BoolVar(&v.json, "json", false, "print a JSON list")
	cmd.Flags().BoolVarP(&v.watch, "watch", "w", false, "show it again each second, until Ctrl-C")
	cmd.Flags().BoolVar(&v.workers, "workers", false, "show each host's workers too")
	return cmd
}

func (v *fleetView) query(ctx context.Context, r fleetReader) ([]fleet.Fleet, error) {
	apps := []string{v.app}
	if v.app == "" {
		var err error
		if apps, err = r.Apps(ctx); err != nil {
			return nil, err
		}
	}
	fleets := []fleet.Fleet{}
	for _, app := range apps {
		f, err := r.Fleet(ctx, app, v.workers)
		switch {
		case err != nil:
			return nil, err
		case len(f.Hosts) > 0:
			fleets = append(fleets, f)
		case v.app != "":
			return nil, unreported(v.app, v.where)
		}
	}
	return fleets, nil
}

// show prints once, or each second until ctx ends. After the first time, Redis may be
// away and come back.
func (v *fleetView) show(ctx context.Context, std stdio, r fleetReader) error {
	if v.watch {
		return watch(ctx, std, func(s screen) ([]string, error) {
			fleets, err := v.query(ctx, r)
			if err != nil {
				return s.wrapIndent("", "  ", sanitize(redisError(v.where, err).Error())), err
			}
			return v.render(s, fleets), nil
		})
	}
	fleets, err := v.query(ctx, r)
	if err != nil {
		return err
	}
	return output{to: std.out, what: "status", json: v.json}.print(fleets, func(s screen) []string { return v.render(s, fleets) })
}

func (v *fleetView) render(s screen, fleets []fleet.Fleet) []string {
	if len(fleets) == 0 {
		return []string{s.cut(sanitize("no app is reported to " + v.where + ": run one with forkd run --redis URL"))}
	}
	var lines []string
	for i := range fleets {
		if i > 0 {
			lines = append(lines, "")
		}
		lines = append(lines, fleetTable(s, &fleets[i], v.workers)...)
	}
	return lines
}
