package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/redisconfig"
)

// commandFlags are the flags of the commands for hosts.
type commandFlags struct {
	from   redisFlags
	all    bool
	within time.Duration
}

// defaultWithin is the validity of a command where hosts report more often.
const defaultWithin = 30 * time.Second

func (f *commandFlags) register(cmd *cobra.Command) {
	f.from.register(cmd)
	cmd.Flags().BoolVar(&f.all, "all", false, "every host")
	cmd.Flags().DurationVar(&f.within, "within", defaultWithin, "a command that a host has not taken within `TIME` expires; longer where hosts report less often")
	cmd.ValidArgsFunction = appNames
}

// aboutCommands is the end of the help of each.
const aboutCommands = `

It waits until each host has answered, and exits 1 if one has not done it. Hosts
execute commands only with redis.control = true.`

func fleetScaleCommand(std stdio) *cobra.Command {
	var flags commandFlags
	cmd := &cobra.Command{
		Use:   "scale APP N|+N|-N|cpus HOST...|--all",
		Short: "change how many workers an app has on hosts",
		Long: `scale changes how many workers an app has on each of the hosts: to a number, by
so many more or fewer, or to a share of the host: cpus, cpus-1, cpus*2+1, 50%.` + aboutCommands,
		Example: `  forkd fleet scale shop 8 web-1 web-2
  forkd fleet scale shop -1 --all`,
		DisableFlagParsing: true, // -1 is no flag
	}
	flags.register(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		args, helped, err := parseNegative(cmd, args)
		if err != nil || helped {
			return err
		}
		if len(args) < 2 {
			return usage("wrong number of arguments: write %s", cmd.UseLine())
		}
		to, err := control.ParseScale(args[1])
		if err != nil {
			return usage("%v", err)
		}
		return flags.run(cmd, std, args[0], args[2:], control.OpScale, control.Args{Workers: string(to)}, everyOne)
	}
	return cmd
}

func fleetDrainCommand(std stdio) *cobra.Command {
	return simpleCommand(std, control.OpDrain, &cobra.Command{
		Use:   "drain APP HOST...|--all",
		Short: "ask balancers to send nothing more to hosts",
		Long: `drain makes the app's health checks on the hosts say that they drain, so that
balancers send their clients elsewhere. The app serves on whoever comes, until
forkd fleet resume.` + aboutCommands,
		Example: `  forkd fleet drain shop web-1`,
	})
}

func fleetResumeCommand(std stdio) *cobra.Command {
	return simpleCommand(std, control.OpResume, &cobra.Command{
		Use:   "resume APP HOST...|--all",
		Short: "let balancers send to hosts again",
		Long: `resume ends what drain began: the app's health checks on the hosts are good
again.` + aboutCommands,
		Example: `  forkd fleet resume shop --all`,
	})
}

func simpleCommand(std stdio, op string, cmd *cobra.Command) *cobra.Command {
	var flags commandFlags
	flags.register(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage("name an app and its hosts: write %s", cmd.UseLine())
		}
		return flags.run(cmd, std, args[0], args[1:], op, control.Args{}, everyOne)
	}
	return cmd
}

func fleetShedCommand(std stdio) *cobra.Command {
	var flags commandFlags
	var over int
	cmd := &cobra.Command{
		Use:   "shed APP COUNT HOST...|--all",
		Short: "make hosts close some of their oldest connections",
		Long: `shed makes each of the hosts close so many connections, those that are open the
longest, a few at a time, so that their clients connect anew, elsewhere. Workers
in Go do that; others take no notice.` + aboutCommands,
		Example: `  forkd fleet shed shop 500 web-1
  forkd fleet shed shop 5000 web-1 --seconds 60`,
	}
	flags.register(cmd)
	cmd.Flags().IntVar(&over, "seconds", 10, "spread it over so `MANY` seconds")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) < 2 {
			return usage("wrong number of arguments: write %s", cmd.UseLine())
		}
		const mostSeconds = 3600
		count, err := strconv.ParseUint(args[1], 10, 31)
		switch {
		case err != nil || count == 0:
			return usage("%q is no number of connections: use 1 or more", args[1])
		case over < 1 || over > mostSeconds:
			return usage("--seconds %d: use 1 to %d", over, mostSeconds)
		}
		return flags.run(cmd, std, args[0], args[2:], control.OpShed, control.Args{Count: int(count), Seconds: over}, everyOne)
	}
	return cmd
}

func fleetRollCommand(std stdio) *cobra.Command {
	var flags commandFlags
	var size string
	cmd := &cobra.Command{
		Use:   "roll APP HOST...|--all|--hosts N|N%",
		Short: "replace the workers of an app, host by host",
		Long: `roll has host after host replace the app's workers, as forkd reload does there:
no request is dropped. With --hosts so many hosts, or such a share of them, roll
at a time: of the hosts that are named, else of all. It stops at the first host
that fails; those that roll at the same time go on.` + aboutCommands,
		Example: `  forkd fleet roll shop web-1
  forkd fleet roll shop --hosts 10%`,
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&size, "hosts", "", "`MANY` hosts at a time: 3, 10%")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage("name an app and its hosts: write %s", cmd.UseLine())
		}
		batch := oneByOne
		if size != "" {
			var err error
			if batch, err = parseBatch(size); err != nil {
				return err
			}
			flags.all = flags.all || len(args) == 1
		}
		return flags.run(cmd, std, args[0], args[1:], control.OpRoll, control.Args{}, batch)
	}
	return cmd
}

// batch is how many of so many hosts get a command at a time.
type batch func(hosts int) int

func everyOne(hosts int) int { return hosts }

func oneByOne(int) int { return 1 }

// parseBatch parses "3" and "10%". A share is rounded up.
func parseBatch(text string) (batch, error) {
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

// run sends a command to hosts of an app and waits for the results.
func (f *commandFlags) run(cmd *cobra.Command, std stdio, app string, names []string, op string, args control.Args, size batch) error {
	switch {
	case f.all && len(names) > 0:
		return usage("name hosts, or use --all: write %s", cmd.UseLine())
	case !f.all && len(names) == 0:
		return usage("name the hosts, or use --all: write %s", cmd.UseLine())
	case f.within < time.Second || f.within > time.Hour:
		return usage("--within %s: use 1s to 1h", f.within)
	}
	if err := redisconfig.CheckApp(app); err != nil {
		return usage("%v", err)
	}
	f.from.readFrom = redisconfig.FromPrimary // a replica takes no commands
	return f.from.withFleet(cmd.Context(), app, func(ctx context.Context, from fleetReader, where string) error {
		all, err := from.Fleet(ctx, app, false)
		switch {
		case err != nil:
			return redisError(where, err)
		case len(all.Hosts) == 0:
			return unreported(app, where)
		}
		seen := time.Now()
		hosts, err := choose(all.Hosts, app, names)
		if err != nil {
			return err
		}
		longest := longestWait(hosts)
		if !cmd.Flags().Changed("within") {
			f.within = max(f.within, longest)
		}
		c := control.Command{ID: newID(), Op: op, Args: args}
		run := commandRun{
			from: from, out: std.out, app: app, where: where, command: fleet.Command{Command: c}, within: f.within, longest: longest,
			batch: size(len(hosts)), at: all.At, seen: seen, commandTracker: newTracker(c.ID, op, hosts),
		}
		return run.run(ctx)
	})
}

// longestWait is the time in which all hosts look for commands: they do when they
// report.
func longestWait(hosts []fleet.Host) time.Duration {
	slowest := 0.0
	for i := range hosts {
		if interval := hosts[i].Interval; interval != nil {
			slowest = max(slowest, *interval)
		}
	}
	return time.Duration((2*slowest + 1) * float64(time.Second))
}

// choose returns the named hosts of an app, or all that have not vanished, by their
// ids.
func choose(hosts []fleet.Host, app string, names []string) ([]fleet.Host, error) {
	var chosen []fleet.Host
	var ids, missing, duplicates []string
	for i := range hosts {
		h := &hosts[i]
		if h.Vanished || len(names) > 0 && !slices.Contains(names, h.ID) || redisconfig.CheckHost(h.ID) != nil {
			continue
		}
		chosen, ids = append(chosen, *h), append(ids, h.ID)
		if h.Twin != "" {
			duplicates = append(duplicates, h.ID)
		}
	}
	for _, name := range names {
		if !slices.Contains(ids, name) && !slices.Contains(missing, name) {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) > 0:
		return nil, fmt.Errorf("%s: no such host reports: %s: forkd fleet status %s shows those that do", app, few(missing), app)
	case len(chosen) == 0:
		return nil, fmt.Errorf("%s: every host has vanished: see forkd fleet status %s", app, app)
	case len(duplicates) > 0:
		return nil, fmt.Errorf("%s: two masters report as %s: give each a redis.host_id of its own, or leave it out", app, few(duplicates))
	}
	return chosen, nil
}

// newID is a random id of a command.
func newID() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // it never fails
	return hex.EncodeToString(id[:])
}
