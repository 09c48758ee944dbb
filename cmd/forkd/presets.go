package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/config"
)

// presetsTopic is `forkd help presets`.
func presetsTopic(stdio) *cobra.Command {
	return &cobra.Command{
		Use:   "presets",
		Short: "what forkd knows of a program by its name",
		Long: `What forkd can't see of a program it knows by the name of the command, behind
env, npm, bundle exec, python3 -m and the like too. What you write wins over it.
preset = "NAME" says what the program is, preset = "none" that nothing is known.
describe shows which settings a preset has made.

  ` + strings.Join(config.PresetHelp(), "\n  "),
	}
}
