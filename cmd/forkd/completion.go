package main

import (
	"io"

	"github.com/spf13/cobra"
)

func completionCommand(std stdio) *cobra.Command {
	scripts := map[string]func(root *cobra.Command, w io.Writer) error{
		"bash": func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"zsh":  func(root *cobra.Command, w io.Writer) error { return root.GenZshCompletion(w) },
		"fish": func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
	}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "print a shell's completion script",
		Long: `completion prints a script that completes forkd's commands, flags and the names
of running apps.`,
		Example: `  source <(forkd completion bash)
  forkd completion zsh > "${fpath[1]}/_forkd"
  forkd completion fish > ~/.config/fish/completions/forkd.fish`,
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args:      exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			script, ok := scripts[args[0]]
			if !ok {
				return usage("no completion for %s: there is bash, zsh and fish", args[0])
			}
			return script(cmd.Root(), std.out)
		},
	}
}
