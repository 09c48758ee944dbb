package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
)

func versionCommand(std stdio) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  exactly(0),
		Run:   func(*cobra.Command, []string) { fmt.Fprintln(std.out, versionLine()) },
	}
}

// versionLine is what `forkd version` and `forkd --version` print.
func versionLine() string {
	return "forkd " + control.Version() + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
}
