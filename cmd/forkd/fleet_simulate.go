package main

import (
	"context"
	"fmt"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/fleet"
)

func fleetSimulateCommand(std stdio) *cobra.Command {
	var from redisFlags
	var o fleet.Simulation
	var interval, length time.Duration
	cmd := &cobra.Command{
		Use:   "simulate [APP]",
		Short: "report hosts that do not exist, to see what Redis makes of them",
		Long: `simulate reports hosts that do not exist, as the masters of so many hosts would,
under the name of an app that nobody else reports: "simulated" if none is given.
It shows each second how many reports Redis takes in a second, in what time it
answers half of them, and 99%, by how much reports are late, how large one is,
and how much memory Redis uses. At Ctrl-C it takes away what it has written.`,
		Example: `  forkd fleet simulate --hosts 10000 --workers 64 --redis redis://10.0.0.5
  forkd fleet simulate --hosts 1000 --full-speed --for 10s`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.App = "simulated"
			switch {
			case len(args) > 1:
				return usage("wrong number of arguments: write %s", cmd.UseLine())
			case len(args) == 1:
				o.App = args[0]
			}
			switch {
			case o.Hosts < 1 || o.Hosts > fleet.MostSimulatedHosts:
				return usage("--hosts %d: use 1 to %d", o.Hosts, fleet.MostSimulatedHosts)
			case o.Workers < 1 || o.Workers > fleet.MostSimulatedWorkers:
				return usage("--workers %d: use 1 to %d", o.Workers, fleet.MostSimulatedWorkers)
			case length < 0:
				return usage("--for %s: use a time that is not negative", length)
			}
			if err := fleet.CheckApp(o.App); err != nil {
				return usage("%v", err)
			}
			s, err := from.settings(cmd.Context(), o.App)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("interval") {
				s.Interval, s.TTL = interval, 0
			}
			if err := s.Check(); err != nil {
				return usage("--interval %s: %v", interval, err)
			}
			return simulate(cmd.Context(), std, s, o, length)
		},
	}
	from.register(cmd)
	cmd.Flags().IntVar(&o.Hosts, "hosts", 10, "`MANY` hosts")
	cmd.Flags().IntVar(&o.Workers, "workers", 8, "`MANY` workers on each")
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "the `TIME` between two reports of a host")
	cmd.Flags().DurationVar(&length, "for", 0, "end after this `TIME`; 0: at Ctrl-C")
	cmd.Flags().BoolVar(&o.Once, "once", false, "one report of each host, which stays until it expires")
	cmd.Flags().BoolVar(&o.FullSpeed, "full-speed", false, "report as fast as Redis takes it")
	return cmd
}

func simulate(ctx context.Context, std stdio, s fleet.Settings, o fleet.Simulation, length time.Duration) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// What is written is taken away then: a second Ctrl-C does not wait for that.
	defer context.AfterFunc(ctx, stop)()
	if length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, length)
		defer cancel()
	}
	where := fleet.MaskURL(s.URL)
	head := false
	err := fleet.Simulate(ctx, s, o, func(now fleet.Simulated) {
		switch {
		case now.Ended:
			fmt.Fprintln(std.out, clean(simulated(o, now)))
		case !head:
			head = true
			fmt.Fprintf(std.out, "%s: %s with %s each, at %s\n", o.App, plural(o.Hosts, "host"), plural(o.Workers, "worker"), where)
			fmt.Fprintln(std.out, simulationLine([]string{"TIME", "HOSTS", "BEATS/S", "FAILED", "HALF IN", "99% IN", "LATE", "BEAT", "MEMORY", "GROWN"}))
			fallthrough
		default:
			fmt.Fprintln(std.out, simulationLine(simulationCells(now)))
			if now.Error != "" {
				fmt.Fprintln(std.out, clean("  "+now.Error))
			}
		}
	})
	return redisFailed(where, err)
}

// simulationLine is a line of a table whose end nobody knows: each column is as
// wide as its figures may get.
func simulationLine(cells []string) string {
	padded := make([]string, len(cells))
	for i, width := range []int{5, 6, 7, 6, 7, 7, 6, 7, 7, 7} {
		padded[i] = pad(cells[i], width, true)
	}
	return strings.Join(padded, " ")
}

func simulationCells(now fleet.Simulated) []string {
	return []string{
		age(now.Elapsed), strconv.Itoa(now.Hosts), rate(&now.PerSecond), count(&now.Failed),
		moment(now.Median), moment(now.P99), moment(now.Late), size(&now.BeatBytes), size(now.UsedMemory), grown(now.Grown),
	}
}

// moment is a short time: "0.2ms", "15ms", "1.2s".
func moment(d time.Duration) string {
	if ms := float64(d) / float64(time.Millisecond); ms < 999.5 {
		return decimal(ms, 10) + "ms"
	}
	return soon(d)
}

func grown(bytes *int64) string {
	if bytes != nil && *bytes < 0 {
		return "-" + size(new(-*bytes))
	}
	return size(bytes)
}

// simulated is how a simulation was, in a line.
func simulated(o fleet.Simulation, now fleet.Simulated) string {
	text := fmt.Sprintf("%s: %s of %s in %.1fs, %d failed", o.App, plural(int(now.Beats), "beat"), plural(now.Hosts, "host"), now.Elapsed.Seconds(), now.Failed)
	if o.Once {
		return text + "; the hosts stay until they expire"
	}
	return text + "; nothing of it is left"
}
