package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/procfs"
	"github.com/forkd/forkd/test/load"
)

const howMoves = "Clients open so many connections to 2 workers, ask once, and are silent; a roll replaces both workers; then each asks again on its connection. " +
	"A roll takes from the request for it until both predecessors are gone and their successors ready. Processor time is that of all workers (`/proc/PID/stat`), beyond that of a roll without connections, in turns. " +
	"Then 32 clients ask without pause on one connection each while 50 rolls follow one another."

// movesWorkers is the number.
const movesWorkers = 2

// movesSettings has a roll done when it is: what is measured are the connections.
const movesSettings = "[update]\nmonitor = \"1ms\"\n"

func (b *bench) moves(ctx context.Context) ([]row, error) {
	var rows []row
	for _, n := range b.plan.idle {
		more, err := b.movesOf(ctx, n)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	more, err := b.movesUnderLoad(ctx)
	return append(rows, more...), err
}

// movesOf rolls workers with n idle connections, or as many as descriptors allow.
func (b *bench) movesOf(ctx context.Context, n int) ([]row, error) {
	wanted := n
	settings := movesSettings
	most, err := raiseNoFile(uint64(n) + 1000)
	if err != nil {
		return nil, err
	}
	if n = min(n, int(most)-1000); n > int(most)/2 {
		settings += fmt.Sprintf("[limits]\nnofile = %d\n", most)
	}
	a, err := b.runApp(ctx, "moves", movesWorkers, b.example(), settings)
	if err != nil {
		return nil, err
	}
	defer a.stop()
	var empty, full []float64 // seconds of processor time
	clients := make([]*load.Client, 0, n)
	defer func() {
		for _, c := range clients {
			c.Close()
		}
	}()
	for range b.plan.movePairs {
		cpu, _, err := a.rollAndWait(ctx)
		if err != nil {
			return nil, err
		}
		empty = append(empty, cpu)
	}
	for i := range n {
		c := load.NewClient(a.address)
		c.From = net.IPv4(127, 0, 1, byte(1+i/10_000)) // bind(2) runs out of free ports long before the 28,000 that each address has
		c.Timeout = startTime
		if _, failed := c.Ask(false); failed != nil {
			return nil, fmt.Errorf("connection %d: %w", i, failed.Err)
		}
		clients = append(clients, c)
	}
	before, err := a.client.Status(ctx)
	if err != nil {
		return nil, err
	}
	var took []float64
	for range b.plan.movePairs {
		cpu, d, err := a.rollAndWait(ctx)
		if err != nil {
			return nil, err
		}
		full, took = append(full, cpu), append(took, d.Seconds())
	}
	after, err := a.client.Status(ctx)
	if err != nil {
		return nil, err
	}
	var failures []load.Failure
	closed := 0
	for _, c := range clients {
		mine := c.Conn
		if _, failed := c.Ask(false); failed != nil {
			failures = append(failures, *failed)
		} else if c.Conn != mine {
			closed++
		}
	}
	moved := *after.Totals.Moved - *before.Totals.Moved
	what := thousands(float64(n)) + " idle connections, a roll of 2 workers"
	if n < wanted {
		what += fmt.Sprintf(" (descriptors allow no %s)", thousands(float64(wanted)))
	}
	return []row{
		promise(what, "0 closed, 0 failed", closed == 0 && len(failures) == 0, "%d closed, %v failed, %s moved in %d rolls", closed, load.Count(failures), thousands(float64(moved)), b.plan.movePairs),
		promise("time of the roll", "1 s or less", median(took) <= 1, "%.2f s", median(took)),
		note("processor time for each that moved", "%.0f microseconds", 1e6*(median(full)-median(empty))/float64(n)),
	}, nil
}

// raiseNoFile raises the limit on open files to n, or as far as may be, and returns it.
func raiseNoFile(n uint64) (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	if l.Cur >= n {
		return l.Cur, nil
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: max(n, l.Max)}); err == nil {
		return n, nil
	}
	return l.Max, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: l.Max, Max: l.Max})
}

// rollAndWait rolls the workers and waits until the old ones are gone. It returns the
// processor time of all workers meanwhile, in seconds.
func (a *app) rollAndWait(ctx context.Context) (cpu float64, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	before, err := a.client.Status(ctx)
	if err != nil {
		return 0, 0, err
	}
	spent := workersTime(a.cmd.Process.Pid, before)
	began := time.Now()
	if _, err := a.client.Reload(ctx, control.Reload{KeepConfig: true, Wait: true}); err != nil {
		return 0, 0, err
	}
	for {
		now, err := a.client.Status(ctx)
		if err != nil {
			return 0, 0, err
		}
		old := false
		for _, s := range now.Slots {
			for _, w := range s.Workers {
				old = old || w.Generation != now.Generation
			}
		}
		if !old && now.AllReady() {
			took = time.Since(began)
			return workersTime(a.cmd.Process.Pid, now) - spent, took, nil
		}
		if ctx.Err() != nil {
			return 0, 0, errors.New("the roll's predecessors have not ended in time")
		}
		load.Pause(ctx, 5*time.Millisecond)
	}
}

// workersTime is the processor time of an app's workers so far, the ended ones included.
func workersTime(master int, app control.App) (seconds float64) {
	add := func(pid int) {
		if s, err := procfs.ReadStat(pid); err == nil {
			seconds += float64(s.CPU) / procfs.ClockTicks
		}
	}
	add(master) // with its children that have ended
	for _, s := range app.Slots {
		for _, w := range s.Workers {
			add(w.PID)
		}
	}
	return seconds
}

func (b *bench) movesUnderLoad(ctx context.Context) ([]row, error) {
	a, err := b.runApp(ctx, "moves", movesWorkers, b.example(), movesSettings)
	if err != nil {
		return nil, err
	}
	defer a.stop()
	asking, end := context.WithCancel(ctx)
	defer end()
	seen := make(chan load.Outcome, 1)
	go func() { seen <- load.ClosedLoop(asking, a.address, load.All(load.Keeping, rollClients), b.plan.warm) }()
	load.Pause(ctx, b.plan.warm)
	for range b.plan.moveRolls {
		if _, _, err := a.rollAndWait(ctx); err != nil {
			return nil, err
		}
	}
	end()
	o := <-seen
	return []row{promise(
		fmt.Sprintf("connections that 32 clients opened in %d rolls", b.plan.moveRolls), "32", o.Opened == rollClients && len(o.Failures) == 0,
		"%d, %v failed of %s", o.Opened, load.Count(o.Failures), thousands(float64(o.Requests)),
	)}, nil
}
