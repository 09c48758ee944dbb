package main

import (
	"bytes"
	"errors"
	"io"

	"github.com/spf13/cobra"
)

func completionCommand(std stdio) *cobra.Command {
	scripts := map[string]func(root *cobra.Command, w io.Writer) error{
		"bash": bashCompletion,
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
		RunE: func(_ *cobra.Command, args []string) error {
			script, ok := scripts[args[0]]
			if !ok {
				return usage("no completion for %s: there is bash, zsh and fish", args[0])
			}
			return script(newRoot(std, nil), std.out)
		},
	}
}

// bashCompletion writes cobra's script. That needs a function of the package bash-completion
// where it finds none: here bash's own words do, split at spaces alone.
func bashCompletion(root *cobra.Command, w io.Writer) error {
	var script bytes.Buffer
	if err := root.GenBashCompletionV2(&script, true); err != nil {
		return err
	}
	const theirs = `    _get_comp_words_by_ref "$@" cur prev words cword
`
	const ours = `    if declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
        _get_comp_words_by_ref "$@" cur prev words cword
        return
    fi
    local line="${COMP_LINE:0:COMP_POINT}"
    read -ra words <<<"$line"
    if [[ -z $line || $line == *[[:space:]] ]]; then
        words+=("")
    fi
    cword=$((${#words[@]} - 1))
    cur="${words[cword]}"
    prev=""
    if ((cword > 0)); then
        prev="${words[cword-1]}"
    fi
`
	if !bytes.Contains(script.Bytes(), []byte(theirs)) {
		return errors.New("cannot write the script for bash: cobra's is another one")
	}
	_, err := w.Write(bytes.Replace(script.Bytes(), []byte(theirs), []byte(ours), 1))
	return err
}
