package main

import (
	"os"
	"os/user"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/doctor"
)

func doctorCommand(std stdio) *cobra.Command {
	var asJSON bool
	var workers string
	cmd := &cobra.Command{
		Use:   "doctor [--user NAME] [--json]",
		Short: "say what this kernel and these privileges allow",
		Long: `doctor says what a master that is started here, by this user, may do: what works,
what forkd falls back to, what is refused, and what to change. Run it where the
app runs: in its container, as its user. It starts nothing and changes nothing.

  ok        works
  fallback  forkd does something else instead
  missing   what needs it is refused

It exits 1 if no app could run here.`,
		Example: `  forkd doctor
  forkd doctor --user www-data   for workers of another user`,
		Args: exactly(0),
		RunE: func(*cobra.Command, []string) error {
			uid := os.Geteuid()
			if workers != "" {
				found, err := user.Lookup(workers)
				if err != nil {
					return usage("there is no user %q: getent passwd lists them", workers)
				}
				if uid, err = strconv.Atoi(found.Uid); err != nil {
					return usage("user %q has no usable number: %q", workers, found.Uid)
				}
			}
			findings := doctor.Look(uid)
			err := output{to: std.out, what: "findings", json: asJSON}.print(findings, func(s screen) []string { return s.findings(findings) })
			if err == nil && doctor.Stops(findings) {
				return &exit{exitFailed, "no app can run here: see kernel and directory above"}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&workers, "user", "", "look for workers of user `NAME`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (s screen) findings(all []doctor.Finding) []string {
	styles := map[doctor.Result]style{doctor.Allowed: green, doctor.Fallback: yellow, doctor.Missing: red}
	var lines []string
	for _, f := range all {
		first := pad(string(f.Result), 10, left) + pad(f.Check, 11, left)
		indent := pad("", columnsOf(first), left)
		wrapped := s.wrapIndent(first, indent, sanitize(f.Text))
		wrapped[0] = s.paint(styles[f.Result], wrapped[0][:10]) + wrapped[0][10:]
		lines = append(lines, wrapped...)
		if f.Change != "" {
			lines = append(lines, s.wrapIndent(indent, indent, sanitize(f.Change))...)
		}
	}
	return lines
}
