// Command bench measures what forkd promises, against a peer where there is
// one, and says of each figure whether it holds. Client, forkd and peer run on
// the same machine in the same run; whatever is compared is measured in
// alternating pairs, and shown as a median with its quartiles.
//
// It counts every failed request, never tries one again, and must not be run
// beside anything else that needs a processor.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) >= 3 {
		switch os.Args[1] {
		case probeFlag:
			probe(os.Args[2])
			return
		case plainFlag:
			fmt.Fprintln(os.Stderr, "bench:", plain(os.Args[2], os.Args[3:]))
			os.Exit(1)
		case chatterFlag:
			if err := chatter(os.Args[2]); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
				os.Exit(1)
			}
			return
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// A bench is one run: where its programs and files are, and how long it measures.
type bench struct {
	bin   string // forkd, the example, the peer
	dir   string // for sockets and configuration, gone afterwards
	cores int
	plan  plan
	log   io.Writer
}

func (b *bench) program(name string) string { return filepath.Join(b.bin, name) }

func (b *bench) example() []string { return []string{b.program("example-fasthttp")} }

func (b *bench) logf(format string, args ...any) { fmt.Fprintf(b.log, format+"\n", args...) }

// A figure is one promise, or a few that are measured together.
type figure struct {
	name    string
	title   string
	how     string // for the reader of docs/benchmarks.md
	measure func(*bench, context.Context) ([]row, error)
}

func figures() []figure {
	return []figure{
		{"throughput", "Throughput against fasthttp's own prefork", howThroughput, (*bench).throughput},
		{"capture", "A program's own sockets captured", howCapture, (*bench).capture},
		{"ready", "Ready after listen(2)", howReady, (*bench).ready},
		{"rolls", "Rolls under load", howRolls, (*bench).rolls},
		{"moves", "Connections through rolls", howMoves, (*bench).moves},
		{"sockets", "WebSockets through rolls", howSockets, (*bench).sockets},
		{"latency", "Latency during rolls", howLatency, (*bench).latency},
		{"kills", "Workers killed under load", howKills, (*bench).kills},
		{"master", "What the master costs", howMaster, (*bench).master},
		{"logs", "Workers that write", howLogs, (*bench).logs},
		{"many", "200 workers", howMany, (*bench).many},
		{"commands", "The command line", howCommands, (*bench).commands},
		{"redis", "Redis hung, refused, flapping", howRedis, (*bench).redis},
		{"counts", "Counts in Redis against the clients' own", howCounts, (*bench).counts},
		{"fleet", "What a fleet costs Redis", howFleet, (*bench).fleet},
		{"spawn", "Between fork and exec", howSpawn, (*bench).spawn},
	}
}

func run(ctx context.Context, args []string, out, log io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(log)
	only := flags.String("only", "", "measure only the figures of these `NAMES`, separated by commas")
	short := flags.Bool("short", false, "measure for a few seconds each: to try it, not to believe it")
	soak := flags.Duration("soak", 0, "measure nothing: for `TIME`, make faults from outside and judge what comes of them")
	seed := flags.Uint64("seed", 0, "of the soak: `N`; 0: a new one")
	document := flags.String("write", "docs/benchmarks.md", "where a whole run goes, `FILE`")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return 2
	}
	chosen, err := choose(*only)
	if err != nil {
		fmt.Fprintln(log, "bench:", err)
		return 2
	}
	b := &bench{bin: "bin", cores: runtime.NumCPU(), plan: full(), log: log}
	if *short {
		b.plan = brief()
	}
	if *soak > 0 {
		if err := b.soakOnce(ctx, *soak, *seed, out); err != nil {
			fmt.Fprintln(log, "soak:", err)
			return 1
		}
		return 0
	}
	results, err := b.all(ctx, chosen)
	if err != nil {
		fmt.Fprintln(log, "bench:", err)
		return 1
	}
	printTable(out, results)
	if *only == "" && !*short {
		if err := writeDocument(*document, describeMachine(), results); err != nil {
			fmt.Fprintln(log, "bench:", err)
			return 1
		}
	}
	if fellShort(results) {
		return 1
	}
	return 0
}

func choose(names string) ([]figure, error) {
	known := figures()
	if names == "" {
		return known, nil
	}
	var chosen []figure
	for name := range strings.SplitSeq(names, ",") {
		before := len(chosen)
		for _, f := range known {
			if f.name == name {
				chosen = append(chosen, f)
			}
		}
		if len(chosen) == before {
			return nil, fmt.Errorf("no figure %q: there are %s", name, namesOf(known))
		}
	}
	return chosen, nil
}

func namesOf(figures []figure) string {
	var names []string
	for _, f := range figures {
		names = append(names, f.name)
	}
	return strings.Join(names, ", ")
}

// open finds the programs and makes the directory; close takes that away.
func (b *bench) open() (err error) {
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if _, err := os.Stat(b.program("forkd")); err != nil {
		return errors.New("there is no bin/forkd: run `make bench`")
	}
	b.dir, err = os.MkdirTemp("", "forkd-bench-")
	return err
}

func (b *bench) close() { _ = os.RemoveAll(b.dir) }

// all measures the figures one after the other.
func (b *bench) all(ctx context.Context, chosen []figure) (results []result, err error) {
	if err := b.open(); err != nil {
		return nil, err
	}
	defer b.close()
	for _, f := range chosen {
		b.logf("%s ...", f.title)
		rows, err := f.measure(b, ctx)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("cannot measure %s: %w", f.name, err)
		}
		results = append(results, result{f, rows})
	}
	return results, nil
}
