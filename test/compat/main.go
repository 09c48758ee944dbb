// Command compat runs programs that people have under forkd, each by its natural
// command, and writes what came of it into docs/compatibility.md: whether it works,
// how it was seen to be ready and when, what rolls and a SIGKILL cost its clients, and
// what was left when it stopped. Beside it, in the same run, the same reload by the
// program's own master.
//
// With -peers it measures forkd beside other masters into docs/peers.md: throughput,
// failures, and what a broken release does.
//
// Programs run one after the other, each for a bounded time. Every process is ended
// by its pid.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// rowTime bounds a row.
const rowTime = 2 * time.Minute

func run(ctx context.Context, args []string, out, log io.Writer) int {
	flags := flag.NewFlagSet("compat", flag.ContinueOnError)
	flags.SetOutput(log)
	only := flags.String("only", "", "run only the programs whose names begin with one of these `NAMES`, separated by commas")
	document := flags.String("write", "", "where a run goes, `FILE`: docs/compatibility.md or docs/peers.md of a whole one")
	peers := flags.Bool("peers", false, "run forkd beside other masters, in place of programs under forkd")
	p := pace{}
	flags.IntVar(&p.rounds, "rounds", 5, "ask all peers so often, `N`")
	flags.DurationVar(&p.span, "span", 2*time.Second, "each load of a peer lasts `TIME`")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return 2
	}
	chosen, err := choose(programs(), *only)
	var raced []contender
	if *peers {
		raced, err = choose(contenders(), *only)
	}
	if err != nil {
		fmt.Fprintln(log, "compat:", err)
		return 2
	}
	if *document == "" && *only == "" {
		*document = "docs/compatibility.md"
		if *peers {
			*document = "docs/peers.md"
		}
	}
	// What outlives its parent becomes a child of this process, which finds it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(log, "compat: cannot become a subreaper:", err)
		return 1
	}
	start := time.Now()
	if *peers {
		contests := race(ctx, raced, p, log)
		fmt.Fprintf(log, "all in %.0f s\n", time.Since(start).Seconds())
		err := ctx.Err()
		if err == nil && *document != "" {
			err = writePeers(*document, contests, p)
		}
		if err != nil {
			fmt.Fprintln(log, "compat:", err)
			return 1
		}
		return 0
	}
	var rows []row
	for i, p := range chosen {
		began := time.Now()
		fmt.Fprintf(log, "%d of %d: %s ...\n", i+1, len(chosen), p.name)
		bounded, cancel := context.WithTimeout(ctx, rowTime)
		r := measure(bounded, p)
		cancel()
		if ctx.Err() != nil {
			return 1
		}
		rows = append(rows, r)
		fmt.Fprintf(log, "  %s\n  in %.0f s\n", r.line(), time.Since(began).Seconds())
	}
	fmt.Fprintf(log, "all in %.0f s\n", time.Since(start).Seconds())
	if *document != "" {
		if err := writeDocument(*document, rows); err != nil {
			fmt.Fprintln(log, "compat:", err)
			return 1
		}
	}
	missed := shortfalls(rows)
	for _, m := range missed {
		fmt.Fprintln(out, m)
	}
	if len(missed) > 0 {
		return 1
	}
	return 0
}

// choose returns those whose names begin with one of names, all without any.
func choose[T interface{ label() string }](known []T, names string) ([]T, error) {
	if names == "" {
		return known, nil
	}
	var chosen []T
	for prefix := range strings.SplitSeq(names, ",") {
		before := len(chosen)
		for _, p := range known {
			if strings.HasPrefix(p.label(), prefix) {
				chosen = append(chosen, p)
			}
		}
		if len(chosen) == before {
			var all []string
			for _, p := range known {
				all = append(all, p.label())
			}
			return nil, fmt.Errorf("no program %q: there are %s", prefix, strings.Join(all, ", "))
		}
	}
	return chosen, nil
}
