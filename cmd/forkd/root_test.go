package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestCommandAlone compares each command, made alone as its name asks for, with that of the
// whole command line.
func TestCommandAlone(t *testing.T) {
	std := stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	var compare func(group *cobra.Command)
	compare = func(group *cobra.Command) {
		for _, want := range group.Commands() {
			args := strings.Fields(want.CommandPath())[1:]
			alone := newRoot(std, args)
			got, rest, err := alone.Find(args)
			if err != nil || len(rest) > 0 || got.UsageString() != want.UsageString() {
				t.Errorf("%v: %v, %q, usage %q", args, err, rest, got.UsageString())
			}
			if n := len(alone.Commands()); n != 2 && args[0] != "help" { // and help
				t.Errorf("%v: %d commands are made", args, n)
			}
			compare(want)
		}
	}
	compare(newRoot(std, nil))
}
