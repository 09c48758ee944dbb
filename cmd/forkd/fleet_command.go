package main

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/redisconfig"
)

// eventOf is the type of the event of a command that is done, and the word for its
// hosts.
func eventOf(op string) (event, past string) {
	of := map[string][2]string{
		control.OpScale:  {control.EventScaled, "scaled"},
		control.OpDrain:  {control.EventDraining, "draining"},
		control.OpResume: {control.EventResumed, "resumed"},
		control.OpShed:   {control.EventShed, "shedding"},
		control.OpRoll:   {control.EventRollDone, "rolled"},
		control.OpReload: {control.EventRollDone, "reloaded"},
	}[op]
	return of[0], of[1]
}

type commandFlags struct {
	from   redisFlags
	all    bool
	within time.Duration
	batch  string // hosts at a time: "3", "10%"
}

// command completes a command for hosts. own parses its own argument, which is between
// APP and the hosts; nil: there is none.
func (f *commandFlags) command(std stdio, op string, cmd *cobra.Command, own func(arg string) (control.Args, error)) *cobra.Command {
	const within = 30 * time.Second
	f.from.register(cmd)
	f.batch = cmp.Or(f.batch, "100%")
	cmd.Flags().BoolVar(&f.all, "all", false, "every host")
	cmd.Flags().DurationVar(&f.within, "within", within, "a command that a host has not taken within `TIME` expires; longer where hosts report less often")
	cmd.ValidArgsFunction = appNames
	cmd.Long += `

It waits until each host has answered, and exits 1 if one has not done it. Hosts
execute commands only with redis.control = true, and none from the embedded
Redis: where one does not, nothing is sent to any.`
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if cmd.DisableFlagParsing {
			var helped bool
			if args, helped, err = parseNegative(cmd, args); err != nil || helped {
				return err
			}
		}
		c := control.Command{Op: op}
		switch {
		case own == nil && len(args) == 0:
			return usage("name an app and its hosts: write %s", cmd.UseLine())
		case own == nil:
		case len(args) < 2:
			return usage("wrong number of arguments: write %s", cmd.UseLine())
		default:
			if c.Args, err = own(args[1]); err != nil {
				return err
			}
			args = slices.Delete(args, 1, 2)
		}
		return f.run(cmd, std, args[0], args[1:], c)
	}
	return cmd
}

func fleetScaleCommand(std stdio) *cobra.Command {
	return new(commandFlags).command(std, control.OpScale, &cobra.Command{
		Use:   "scale APP N|+N|-N|cpus HOST...|--all",
		Short: "change how many workers an app has on hosts",
		Long: `scale changes how many workers an app has on each of the hosts: to a number, by
so many more or fewer, or to a share of the host: cpus, cpus-1, cpus*2+1, 50%.`,
		Example: `  forkd fleet scale shop 8 web-1 web-2
  forkd fleet scale shop -1 --all`,
		DisableFlagParsing: true, // -1 is no flag
	}, func(arg string) (control.Args, error) {
		to, err := control.ParseScale(arg)
		if err != nil {
			return control.Args{}, usage("%v", err)
		}
		return control.Args{Workers: string(to)}, nil
	})
}

func fleetDrainCommand(std stdio) *cobra.Command {
	return new(commandFlags).command(std, control.OpDrain, &cobra.Command{
		Use:   "drain APP HOST...|--all",
		Short: "ask balancers to send nothing more to hosts",
		Long: `drain makes the app's health checks on the hosts say that they drain, so that
balancers send their clients elsewhere. The app serves on whoever comes, until
forkd fleet resume.`,
		Example: `  forkd fleet drain shop web-1`,
	}, nil)
}

func fleetResumeCommand(std stdio) *cobra.Command {
	return new(commandFlags).command(std, control.OpResume, &cobra.Command{
		Use:   "resume APP HOST...|--all",
		Short: "let balancers send to hosts again",
		Long: `resume ends what drain began: the app's health checks on the hosts are good
again.`,
		Example: `  forkd fleet resume shop --all`,
	}, nil)
}

func fleetShedCommand(std stdio) *cobra.Command {
	const mostSeconds = 3600
	var over int
	cmd := new(commandFlags).command(std, control.OpShed, &cobra.Command{
		Use:   "shed APP COUNT HOST...|--all",
		Short: "make hosts close some of their oldest connections",
		Long: `shed makes each of the hosts close so many connections, those that are open the
longest, a few at a time, so that their clients connect anew, elsewhere. Workers
in Go do that; others take no notice.`,
		Example: `  forkd fleet shed shop 500 web-1
  forkd fleet shed shop 5000 web-1 --seconds 60`,
	}, func(arg string) (control.Args, error) {
		count, err := strconv.ParseUint(arg, 10, 31)
		switch {
		case err != nil || count == 0:
			return control.Args{}, usage("%q is no number of connections: use 1 or more", arg)
		case over < 1 || over > mostSeconds:
			return control.Args{}, usage("--seconds %d: use 1 to %d", over, mostSeconds)
		}
		return control.Args{Count: int(count), Seconds: over}, nil
	})
	cmd.Flags().IntVar(&over, "seconds", 10, "spread it over so `MANY` seconds")
	return cmd
}

func fleetRollCommand(std stdio) *cobra.Command {
	return hostByHost(std, control.OpRoll, &cobra.Command{
		Use:   "roll APP HOST...|--all|--hosts N|N%",
		Short: "replace the workers of an app, host by host",
		Long: `roll has host after host replace the app's workers, with the configuration that
the app has, as forkd reload --keep-config does there: forkd fleet reload reads
the file.`,
		Example: `  forkd fleet roll shop web-1
  forkd fleet roll shop --hosts 10%`,
	})
}

func fleetReloadCommand(std stdio) *cobra.Command {
	return hostByHost(std, control.OpReload, &cobra.Command{
		Use:   "reload APP HOST...|--all|--hosts N|N%",
		Short: "read the configuration and replace the workers, host by host",
		Long: `reload has host after host read the app's configuration, its own file there, and
then replace the app's workers, as forkd reload does there. A host whose file is
no good changes nothing, and fails. forkd fleet roll does not read the file.`,
		Example: `  forkd fleet reload shop web-1
  forkd fleet reload shop --hosts 10%`,
	})
}

// hostByHost completes a command that rolls.
func hostByHost(std stdio, op string, cmd *cobra.Command) *cobra.Command {
	const flag = "hosts"
	flags := commandFlags{batch: "1"}
	cmd.Long += `

With --hosts so many hosts, or such a share of them, roll at a time: of the
hosts that are named, else of all. It stops at the first host that fails; those
that roll at the same time go on.`
	cmd = flags.command(std, op, cmd, nil)
	cmd.Flags().StringVar(&flags.batch, flag, flags.batch, "`MANY` hosts at a time: 3, 10%")
	cmd.Flags().Lookup(flag).DefValue = "" // the help says it in words
	return cmd
}

// parseBatch parses "3" and "10%": how many of so many hosts get a command at a time.
// A share is rounded up.
func parseBatch(text string) (func(hosts int) int, error) {
	digits, percent := strings.CutSuffix(text, "%")
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || n == 0 || percent && n > 100 {
		return nil, usage("--hosts %s: use a number of hosts from 1, or a share: 10%%", text)
	}
	return func(hosts int) int {
		if percent {
			return (hosts*int(n) + 99) / 100
		}
		return int(n)
	}, nil
}

func (f *commandFlags) run(cmd *cobra.Command, std stdio, app string, names []string, c control.Command) error {
	batch, err := parseBatch(f.batch)
	if err != nil {
		return err
	}
	f.all = f.all || len(names) == 0 && cmd.Flags().Changed("hosts")
	switch {
	case f.all && len(names) > 0:
		return usage("name hosts, or use --all: write %s", cmd.UseLine())
	case !f.all && len(names) == 0:
		return usage("name the hosts, or use --all: write %s", cmd.UseLine())
	case f.within < time.Second || f.within > time.Hour:
		return usage("--within %s: use 1s to 1h", f.within)
	}
	f.from.readFrom = redisconfig.FromPrimary // a replica takes no commands
	return f.from.withFleet(cmd.Context(), app, func(ctx context.Context, from fleetReader, where string) error {
		all, err := from.Fleet(ctx, app, false)
		switch {
		case err != nil:
			return err
		case len(all.Hosts) == 0:
			return unreported(app, where)
		}
		seen := time.Now()
		hosts, err := choose(all.Hosts, app, names)
		if err != nil {
			return err
		}
		longest := time.Duration(0) // until a host looks for commands: it does when it reports
		for _, h := range hosts {
			longest = max(longest, h.Takes())
		}
		if !cmd.Flags().Changed("within") {
			f.within = max(f.within, longest)
		}
		c.ID = newID()
		run := commandRun{
			from: from, out: std.out, app: app, where: where, command: fleet.Command{Command: c}, hosts: hosts,
			within: f.within, longest: longest, batch: batch(len(hosts)), at: all.At, seen: seen,
		}
		return run.run(ctx)
	})
}

// choose returns the named hosts of an app, or all that have not vanished.
func choose(hosts []fleet.Host, app string, names []string) ([]*hostResult, error) {
	wrong := func(format string, args ...any) error {
		return &exit{exitFailed, app + ": " + fmt.Sprintf(format, args...)}
	}
	var chosen []*hostResult
	var duplicates, disobey []string
	missing := slices.Clone(names)
	for _, h := range hosts {
		if h.Vanished || len(names) > 0 && !slices.Contains(names, h.ID) || redisconfig.CheckHost(h.ID) != nil {
			continue
		}
		chosen = append(chosen, &hostResult{Host: h})
		missing = slices.DeleteFunc(missing, func(name string) bool { return name == h.ID })
		if h.Twin != "" {
			duplicates = append(duplicates, h.ID)
		}
		if h.Control != nil && !*h.Control {
			disobey = append(disobey, h.ID)
		}
	}
	switch {
	case len(missing) > 0:
		return nil, wrong("no such host reports: %s: forkd fleet status %s shows those that do", few(missing), app)
	case len(chosen) == 0:
		return nil, wrong("every host has vanished: see forkd fleet status %s", app)
	case len(duplicates) > 0:
		return nil, wrong("two masters report as %s: give each a redis.host_id of its own, or leave it out", few(duplicates))
	case len(disobey) > 0:
		return nil, wrong("nothing was sent: no commands are executed by %s: set redis.control = true there; the embedded Redis takes none", few(disobey))
	}
	return chosen, nil
}

func newID() string { return fmt.Sprintf("%016x", rand.Uint64()) }
