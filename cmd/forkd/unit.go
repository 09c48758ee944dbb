package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/systemd"
)

func unitCommand(std stdio) *cobra.Command {
	return &cobra.Command{
		Use:   "unit [APP]",
		Short: "print a systemd unit",
		Long: `unit prints a systemd unit that runs this very binary: for one app, whose
settings are in /etc/forkd/APP.toml, or, without a name, the template for all of
them, where %i is the name. docs/systemd.md says what is in it and why.`,
		Example: `  forkd unit shop > /etc/systemd/system/shop.service
  forkd unit > /etc/systemd/system/forkd@.service
  systemctl daemon-reload && systemctl enable --now forkd@shop`,
		Args:              between(0, 1),
		ValidArgsFunction: appNames,
		RunE: func(_ *cobra.Command, args []string) error {
			app := strings.Join(args, "")
			if len(args) > 0 && !control.ValidName(app) {
				return usage("cannot make a unit for %q: %s", app, control.NameRule)
			}
			binary, err := binaryPath("/proc/self/exe")
			if err != nil {
				return err
			}
			if strings.ContainsFunc(binary, func(r rune) bool { return strings.ContainsRune(`"'\`, r) || r < ' ' || r == 0x7f }) {
				return fmt.Errorf("cannot make a unit for %q: systemd runs nothing with quotes or backslashes in its path: install forkd elsewhere", binary)
			}
			fmt.Fprint(std.out, systemd.UnitFile(app, binary))
			return nil
		},
	}
}

// binaryPath is where the running binary is, as proc_pid_exe(5) links to it. Of
// one that is no longer there the kernel writes " (deleted)" behind the path;
// os.Executable hides that.
func binaryPath(link string) (string, error) {
	path, err := os.Readlink(link)
	if err != nil {
		return "", fmt.Errorf("cannot make a unit: cannot find out where this binary is: %w", err)
	}
	named, errNamed := os.Stat(path)
	running, errRunning := os.Stat(link)
	if errNamed != nil || errRunning != nil || !os.SameFile(named, running) {
		return "", fmt.Errorf("cannot make a unit: %s is not the forkd that runs here: it has been replaced or removed meanwhile: run the one that is installed", strings.TrimSuffix(path, " (deleted)"))
	}
	return path, nil
}
