package main

import "github.com/spf13/cobra"

// refused is a command that a user may look for and that there is not.
type refused struct {
	names []string
	text  string // what to do instead
}

// refusals are the commands of docs/contract.md, Command line, that are not built, then
// pm2's commands that forkd has by another name.
func refusals() []*cobra.Command {
	var commands []*cobra.Command
	for _, r := range []refused{
		{[]string{"start"}, "start is not built yet: use forkd run, under systemd or with &"},
		{[]string{"upgrade"}, "upgrade is not built yet: stop the app and run it again"},
		{[]string{"roll"}, "roll is forkd reload --keep-config APP on this host, and forkd fleet roll APP on all"},
		{[]string{"restart"}, "restart is a command of pm2: use forkd reload APP, which replaces the workers one by one"},
		{[]string{"delete"}, "delete is a command of pm2: use forkd stop APP; an app that does not run leaves nothing behind"},
		{[]string{"save"}, "save is a command of pm2: an app's settings are its file, /etc/forkd/APP.toml"},
		{[]string{"startup"}, "startup is a command of pm2: use forkd unit APP, which prints a systemd unit"},
		{[]string{"jlist"}, "jlist is a command of pm2: use forkd status --json"},
		{[]string{"flush"}, "flush is a command of pm2: forkd's log files are bounded, by log.max_size and log.max_files"},
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
