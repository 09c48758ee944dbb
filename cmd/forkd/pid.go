package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
)

func pidCommand(std stdio) *cobra.Command {
	return &cobra.Command{
		Use:               "pid APP",
		Short:             "print the pid of an app's master",
		Args:              exactly(1),
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withApp(cmd, args, func(client *control.Client) error {
				if client.PID() == 0 {
					return fmt.Errorf("cannot see the master of %s from here: it runs in another pid namespace", client.At().Path())
				}
				fmt.Fprintln(std.out, client.PID())
				return nil
			})
		},
	}
}
