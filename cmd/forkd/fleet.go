package main

import (
	"context"
	"fmt"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/fleetserve"
	"github.com/forkd/forkd/internal/redisconfig"
)

// fleetReader is what the commands of the fleet need of a *fleet.Reader.
type fleetReader interface {
	fleetserve.Source
	Fleet(ctx context.Context, app string, withWorkers bool) (fleet.Fleet, error)
	Advice(ctx context.Context, app string, p advise.Policy) (fleet.Fleet, advise.Advice, error)
	Advisor(app, id string, p advise.Policy) *fleet.Advisor
}

func fleetCommand(std stdio, args []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fleet COMMAND",
		Short: "see and command an app on all its hosts, through Redis",
		Long: `fleet sees and commands an app on all its hosts, through the Redis that they
report to: see redis.url in an app's file, and --redis of forkd run.

Redis is where --redis or -c FILE say, else FORKD_REDIS_URL; without these the
app that runs here is asked. Hosts execute commands only with
redis.control = true.`,
		Example: `  forkd fleet status                                all apps and their hosts
  forkd fleet status shop --redis redis://10.0.0.5  by the Redis that is named
  forkd fleet events shop -f                        what happens, as it happens
  forkd fleet roll shop --hosts 10%                 a tenth of the hosts at a time
  forkd fleet advise shop                           how many hosts it should have
  forkd fleet haproxy shop --socket /run/haproxy/admin.sock --backend shop
  forkd fleet serve                                 all of it as a live page`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	addCommands(cmd, std, args, map[string]func(stdio) *cobra.Command{
		"status": fleetStatusCommand, "events": fleetEventsCommand, "advise": fleetAdviseCommand, "serve": fleetServeCommand,
		"haproxy": fleetHAProxyCommand, "agent": fleetAgentCommand, "scale": fleetScaleCommand, "drain": fleetDrainCommand,
		"resume": fleetResumeCommand, "shed": fleetShedCommand, "roll": fleetRollCommand, "reload": fleetReloadCommand,
	})
	return cmd
}

// withFleet calls f with a reader of the Redis that the flags name. where is that
// Redis, without its password; an error of f that has no exit code is of Redis. At
// Ctrl-C the context of f ends and so does what it reads; a second Ctrl-C is not waited
// for.
func (r *redisFlags) withFleet(ctx context.Context, app string, f func(ctx context.Context, from fleetReader, where string) error) error {
	if err := fleet.CheckApp(app); app != "" && err != nil {
		return usage("%v", err)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	s, err := r.settings(ctx, app)
	if err != nil {
		return err
	}
	where := redisconfig.MaskURL(s.URL)
	reader, err := fleet.Open(s)
	if err != nil {
		return r.wrong(err)
	}
	defer reader.Close()
	defer context.AfterFunc(ctx, func() {
		stop()
		reader.Close()
	})()
	err = f(ctx, reader, where)
	switch {
	case err == nil || is[*exit](err):
		return err
	case ctx.Err() != nil:
		return &exit{exitFailed, "interrupted"}
	default:
		return redisError(where, err)
	}
}

// redisError says at which Redis it happened, and what to do.
func redisError(where string, err error) error {
	text := err.Error()
	for _, of := range [][2]string{
		{"NOAUTH", "give the password by --password-file, or in the URL"},
		{"WRONGPASS", "see the user in the URL, and --password-file"},
		{"NOPERM", "the rights that each command needs are in docs/fleet.md, Rights"},
		{"connection refused", "is Redis running there?"},
		{"i/o timeout", "Redis does not answer in time: is it stopped, or busy?"},
		{"protocol", "is it the right port?"},
	} {
		if strings.Contains(text, of[0]) {
			return fmt.Errorf("%s: %s: %s", where, text, of[1])
		}
	}
	return fmt.Errorf("%s: %s", where, text)
}

func unreported(app, where string) error {
	return &exit{exitNoApp, "no host reports an app " + strconv.Quote(app) + " to " + where + ": forkd fleet status shows those that are reported"}
}
