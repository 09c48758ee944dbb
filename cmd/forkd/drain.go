package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
)

func drainCommand(std stdio) *cobra.Command {
	return hostDraining(std, true, &cobra.Command{
		Use:   "drain APP",
		Short: "ask balancers to send nothing more here",
		Long: `drain makes the app's health checks say that this host drains, so that balancers
send their clients elsewhere. The app serves on whoever comes; resume ends it.`,
	})
}

func resumeCommand(std stdio) *cobra.Command {
	return hostDraining(std, false, &cobra.Command{
		Use:   "resume APP",
		Short: "let balancers send here again",
		Long:  "resume ends what drain began: the app's health checks are good again.",
	})
}

func hostDraining(std stdio, draining bool, cmd *cobra.Command) *cobra.Command {
	cmd.Args = exactly(1)
	cmd.ValidArgsFunction = appNames
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withApp(cmd, args, func(client *control.Client) error {
			name := client.At().Name
			if err := client.DrainHost(cmd.Context(), draining); err != nil {
				return err
			}
			if draining {
				fmt.Fprintf(std.out, "%s: this host drains: its health checks fail, and it serves whoever comes, until forkd resume %s\n", name, name)
			} else {
				fmt.Fprintf(std.out, "%s: this host takes part again\n", name)
			}
			return nil
		})
	}
	return cmd
}
