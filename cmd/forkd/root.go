package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/forkd/forkd/internal/config"
	"github.com/forkd/forkd/internal/control"
)

// stdio is where a command reads, and where it writes: results to out, errors to
// err.
type stdio struct{ in, out, err *os.File }

// run is the whole program but for the process's end: it returns the exit code.
func run(ctx context.Context, args []string, std stdio) int {
	root := newRoot(std, args)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	code, text := exitCode(err)
	if wrong, ok := errors.AsType[*config.Error](err); ok {
		wrong.Text = asTyped(cmd, wrong.Text)
		printErrors(std, wrong, cmd.Name() == "check")
	} else if text != "" {
		fmt.Fprintln(std.err, "forkd: "+sanitize(asTyped(cmd, text)))
	}
	return code
}

// asTyped is an error with the command that was typed in what it says to write: settings are
// the same for run and start.
func asTyped(cmd *cobra.Command, text string) string {
	if cmd.Name() != "start" {
		return text
	}
	return strings.ReplaceAll(text, "forkd run ", "forkd start ")
}

// printErrors prints all errors of a configuration; to a terminal, and if asked to, each
// with its line and a mark below.
func printErrors(std stdio, first *config.Error, source bool) {
	s := screenOf(std.err)
	for _, e := range append([]*config.Error{first}, first.Others...) {
		fmt.Fprintln(std.err, "forkd: "+sanitize(e.OneLine()))
		if e.Source == "" || !source && s.height == 0 {
			continue
		}
		const widest = 64 // of what is shown, so that all fits 80 columns
		line, at := []rune(e.Source), e.Column-1
		if from := at - widest/2; len(line) > widest && from > 0 {
			line, at = append([]rune("…"), line[from:]...), at-from+1
		}
		number := fmt.Sprintf("%6d | ", e.Line)
		fmt.Fprintln(std.err, s.paint(dim, number)+string(line[:min(len(line), widest)]))
		fmt.Fprintln(std.err, s.paint(dim, "       | ")+strings.Repeat(" ", at)+s.paint(red, "^"))
	}
}

// newRoot makes the command line for arguments; none: all of it.
func newRoot(std stdio, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "forkd",
		Short: "run a server on every core, and roll it without a break",
		Long: `forkd runs a server on every core, replaces what crashes, and rolls out new
versions while clients go on: reload --help says what they see of it.

  forkd run --listen :8080 -- ./server   run it, one worker per core, on :8080
  forkd status                           see it, from another terminal
  forkd reload server                    replace its workers, one by one
  forkd stop server                      let it finish, and end

Exit codes: 0 done, 1 it failed, 2 wrong usage or configuration, 3 no such app,
4 the app does not answer.`,
		Args:              noSuchCommand,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetOut(std.out)
	root.SetErr(std.err)
	printHelp := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		var text strings.Builder
		cmd.SetOut(&text)
		printHelp(cmd, args)
		cmd.SetOut(std.out)
		_, _ = io.WriteString(std.out, wrapHelp(text.String()))
	})
	// Not cobra's own --version, whose template links text/template, and with it
	// keeps every method of every type in the binary.
	version := root.Flags().Bool("version", false, "print the version")
	root.RunE = func(cmd *cobra.Command, _ []string) error {
		if *version {
			fmt.Fprintln(std.out, versionLine())
			return nil
		}
		return cmd.Help()
	}
	root.SetFlagErrorFunc(flagError)
	addCommands(root, std, args, map[string]func(stdio) *cobra.Command{
		"run": runCommand, "start": startCommand, "status": statusCommand, "reload": reloadCommand, "scale": scaleCommand, "stop": stopCommand,
		"kill": killCommand, "drain": drainCommand, "resume": resumeCommand, "describe": describeCommand, "logs": logsCommand,
		"events": eventsCommand, "top": topCommand, "send": sendCommand, "pid": pidCommand, "check": checkCommand, "doctor": doctorCommand,
		"unit": unitCommand, "completion": completionCommand, "version": versionCommand, "presets": presetsTopic,
		"fleet": func(std stdio) *cobra.Command { return fleetCommand(std, args[min(1, len(args)):]) },
	})
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.RunE = helpOn
	}
	return root
}

// addCommands adds the command whose name is the first argument, or else all: to make them
// all, with their flags, costs more than a short command does.
func addCommands(to *cobra.Command, std stdio, args []string, all map[string]func(stdio) *cobra.Command) {
	if len(args) > 0 && all[args[0]] != nil {
		all = map[string]func(stdio) *cobra.Command{args[0]: all[args[0]]}
	}
	for _, command := range all {
		cmd := command(std)
		cmd.DisableFlagsInUseLine = true // "[flags]" on every line says nothing
		to.AddCommand(cmd)
	}
}

func versionCommand(std stdio) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  exactly(0),
		Run:   func(*cobra.Command, []string) { fmt.Fprintln(std.out, versionLine()) },
	}
}

func versionLine() string {
	return "forkd " + control.Version() + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
}

// flagText says what is wrong with a flag. pflag quotes what strconv and time say of a
// value, which names functions of Go.
func flagText(err error) string {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err.Error()
	}
	use := ""
	switch invalid.GetFlag().Value.Type() {
	case "duration":
		use = "a time, such as 90s, 5m or 1h"
	case "int", "int64":
		use = "a whole number"
	case "uint16":
		use = "a whole number, 0 to 65535"
	case "float64":
		use = "a number"
	default:
		return err.Error()
	}
	return fmt.Sprintf("--%s %q: use %s", invalid.GetFlag().Name, strings.TrimPrefix(invalid.GetValue(), negativeMark), use)
}

// helpOn is `forkd help COMMAND`. Cobra's own exits 0 for a command that there is not.
func helpOn(cmd *cobra.Command, args []string) error {
	of, rest, err := cmd.Root().Find(args)
	switch {
	case err != nil:
		return err
	case len(rest) > 0 && !slices.Contains(of.ValidArgs, rest[0]):
		return noSuchCommand(of, rest)
	}
	of.InitDefaultHelpFlag()
	return of.Help()
}

// wrapHelp wraps lines at 80 columns: pflag does not wrap the text of a flag. The
// rest of a line stands below its last column.
func wrapHelp(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		indent := strings.Repeat(" ", max(strings.LastIndex(line, "   ")+3, 2))
		lines[i] = strings.Join(screen{width: 80}.wrapIndent("", indent, line), "\n")
	}
	return strings.Join(lines, "\n")
}

func exactly(n int) cobra.PositionalArgs { return between(n, n) }

func between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usage("wrong number of arguments: write %s", cmd.UseLine())
		}
		return nil
	}
}
