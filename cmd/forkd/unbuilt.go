package main

import "github.com/spf13/cobra"

// refused is a command that is not built yet.
type refused struct {
	names []string
	text  string // what to do instead
}

// refusals are the commands of docs/contract.md, Command line, that are not built.
func refusals() []*cobra.Command {
	var commands []*cobra.Command
	for _, r := range []refused{
		{[]string{"upgrade"}, "upgrade is not built yet: stop the app and run it again"},
		{[]string{"roll"}, "roll is forkd reload --keep-config APP on this host, and forkd fleet roll APP on all"},
	} {
		commands = append(commands, refusal(r))
	}
	return commands
}

func refusal(r refused) *cobra.Command {
	return &cobra.Command{
		Use:                r.names[0],
		Aliases:            r.names[1:],
		Hidden:             true,
		DisableFlagParsing: true,
		RunE:               func(*cobra.Command, []string) error { return usage("%s", r.text) },
	}
}
