package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
)

func stopCommand(std stdio) *cobra.Command {
	return ending(std, false, &cobra.Command{
		Use:   "stop APP",
		Short: "let an app's workers finish, then end it",
		Long: `stop asks every worker to finish what it has, for drain.timeout at most, and
waits until the master is gone.`,
	})
}

func killCommand(std stdio) *cobra.Command {
	return ending(std, true, &cobra.Command{
		Use:   "kill APP",
		Short: "end an app at once",
		Long: `kill ends every worker at once, by SIGKILL, and waits until the master is gone.
Requests that the workers have not answered are lost.`,
	})
}

// ending completes the commands that end apps.
func ending(std stdio, now bool, cmd *cobra.Command) *cobra.Command {
	var all bool
	cmd.ValidArgsFunction = appNames
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withApps(cmd, args, all, true, func(client *control.Client) error {
			return end(cmd.Context(), std, client, now)
		})
	}
	cmd.Flags().BoolVar(&all, "all", false, "every app that runs, at the same time")
	return cmd
}

// stopNotice is the time after which a stop says what it waits for.
const stopNotice = 2 * time.Second

func end(ctx context.Context, std stdio, client *control.Client, now bool) error {
	name := client.At().Name
	began := time.Now()
	if err := client.Stop(ctx, now); err != nil {
		return err
	}
	gone := make(chan error, 1)
	go func() { gone <- client.Gone(ctx) }()
	late := time.NewTimer(stopNotice)
	defer late.Stop()
	for {
		select {
		case err := <-gone:
			if err == nil {
				fmt.Fprintf(std.out, "%s: stopped, after %.1fs\n", name, time.Since(began).Seconds())
			}
			return err
		case <-late.C:
			if !now {
				fmt.Fprintf(std.out, "%s: its workers finish what they have; forkd kill %s ends them at once\n", name, name)
			}
		}
	}
}
