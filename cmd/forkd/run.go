package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/forkd/forkd/internal/config"
	"github.com/forkd/forkd/supervisor"
)

func runCommand(std stdio) *cobra.Command {
	var flags config.Flags
	cmd := &cobra.Command{
		Use:   "run [flags] [APP] [-- COMMAND ARGS...]",
		Short: "run an app in the foreground: the master",
		Long: `run starts an app's workers, in the foreground: what systemd, Docker and a
terminal run. Its settings come from -c FILE (-: standard input), else
/etc/forkd/APP.toml or ~/.config/forkd/APP.toml for a named APP, else
./forkd.toml; flags come on top.

Signals:
  HUP               read the configuration, then replace the workers one by one
  USR2              replace them without reading it
  TERM, INT, QUIT   let the workers finish, then end; a second one ends at once
  USR1              open the log files again
  TTIN, TTOU        one worker more, one fewer
  WINCH             drain all workers until HUP or USR2; not in a terminal`,
		Example: `  forkd run --listen :8080 -- ./server
  forkd run --workers 4 --listen 8080 ./server --verbose
  forkd run -c shop.toml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := load(cmd, &flags, args)
			if err != nil {
				return err
			}
			cfg.FleetAgent = []string{"forkd", "fleet", "agent"}
			runtime.GOMAXPROCS(1) // it has little to do, and a second thread to look for it costs a quarter more
			debug.SetGCPercent(masterGC)
			// A panic, or systemd's watchdog, would end a Go program with status 2,
			// which here means a bad configuration and forbids to start again.
			debug.SetTraceback("crash")
			return supervisor.Run(cmd.Context(), cfg, supervisor.Output{Stdout: std.out, Stderr: std.err})
		},
	}
	loads(cmd, &flags)
	return cmd
}

// masterGC keeps a master's heap near what is alive in it, under a megabyte: it
// collects in less than one millisecond, and rarely.
const masterGC = 50

func checkCommand(std stdio) *cobra.Command {
	var flags config.Flags
	var defaults bool
	cmd := &cobra.Command{
		Use:   "check [-c FILE] [APP] [-- COMMAND ARGS...]",
		Short: "say whether a configuration is good",
		Long: `check reads what run would read, with the same flags, and looks at what that
names, the program above all. It starts nothing, and binds nothing. All errors
of a file are shown, each with its line; values that may be secrets are not.`,
		Example: `  forkd check shop.toml
  forkd check --defaults > shop.toml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if defaults {
				_, err := io.WriteString(std.out, config.DefaultsFile())
				return err
			}
			cfg, err := load(cmd, &flags, args)
			if err == nil {
				err = supervisor.Check(cfg)
			}
			if err != nil {
				return err
			}
			for _, text := range cfg.Warnings {
				fmt.Fprintln(std.err, "forkd: warning: "+sanitize(text))
			}
			fmt.Fprintln(std.out, sanitize(summary(cfg)))
			return nil
		},
	}
	loads(cmd, &flags)
	cmd.Flags().BoolVar(&defaults, "defaults", false, "print a file with every setting and its default, commented out")
	return cmd
}

func summary(cfg supervisor.Config) string {
	var text strings.Builder
	if cfg.File != "" {
		text.WriteString(cfg.File + ": ")
	}
	fmt.Fprintf(&text, "good: %s runs %s in %s", cfg.Name, cfg.Command[0], plural(cfg.Workers, "worker"))
	if cfg.User != nil {
		text.WriteString(" as " + cfg.User.Name)
	}
	for i, l := range cfg.Listeners {
		separator := ", listening on "
		if i > 0 {
			separator = " and "
		}
		text.WriteString(separator + l.Address())
	}
	return text.String()
}

// loads declares the flags of a command that calls load. Flags end at the
// first argument that is none: what follows may be the command's own.
func loads(cmd *cobra.Command, flags *config.Flags) {
	flags.Register(cmd.Flags())
	cmd.Flags().SetInterspersed(false)
}

// load reads the settings that the rest of the command line asks for.
func load(cmd *cobra.Command, flags *config.Flags, args []string) (supervisor.Config, error) {
	app, command, err := named(cmd, args)
	if err != nil {
		return supervisor.Config{}, err
	}
	return config.Load(flags, app, command)
}

// named is target for a command. It may be called once: it parses the flags behind a name.
func named(cmd *cobra.Command, args []string) (app string, command []string, err error) {
	if app, command, err = target(cmd.Flags(), args); err != nil {
		return "", nil, flagError(cmd, err)
	}
	if help, _ := cmd.Flags().GetBool("help"); help {
		return "", nil, pflag.ErrHelp // cobra prints it
	}
	return app, command, nil
}

// target tells the name of an app from a command, and from a file that belongs behind
// -c. A name holds no slash, so that `forkd run ./server --verbose` needs no "--"; behind
// a name there may be more flags.
func target(flags *pflag.FlagSet, args []string) (app string, command []string, err error) {
	switch {
	case flags.ArgsLenAtDash() == 0 || len(args) == 0:
		return "", args, nil
	case strings.HasSuffix(args[0], ".toml") && flags.Changed("config"):
		return "", nil, fmt.Errorf("two files, that of -c and %s: name one", args[0])
	case strings.HasSuffix(args[0], ".toml"):
		err = flags.Set("config", args[0])
	case strings.Contains(args[0], "/"):
		return "", args, nil
	default:
		app = args[0]
	}
	if err != nil {
		return "", nil, err
	}
	if err := flags.Parse(args[1:]); err != nil {
		return "", nil, err
	}
	command = flags.Args()
	if len(command) > 0 && flags.ArgsLenAtDash() != 0 {
		return "", nil, fmt.Errorf("unexpected argument %q: a command comes after --, as in forkd run -- %s", command[0], strings.Join(args, " "))
	}
	return app, command, nil
}
