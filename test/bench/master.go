package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/test/load"
)

const howMaster = "8 workers of the fasthttp example. PSS is taken (`/proc/PID/smaps_rollup`) after a status and a roll, not before: at once, and each second when the master has been at rest (the median); " +
	"idle is the processor time of all of the master's threads over 20 s in which nobody asks for anything (`/proc/PID/task/*/schedstat`)."

const howMany = "GET /v1/status over the control socket, connecting each time; then one roll of all slots with `parallelism` 10 and workers that take half a second to be ready " +
	"(`ready.mode` delay), watched by asking for the status every 50 ms. A master that does not keep up starts fewer than 10 at once, and takes longer than 20 times half a second."

const howCommands = "The whole command from fork to exit, taking turns, beside one app with 8 workers; processor time is the process's own, beside " +
	"a Go program that prints one line. A program that does nothing but link the libraries that forkd uses takes 1.8 times as much (decision 66)."

// masterWorkers is the number for what a master may cost.
const masterWorkers = 8

func (b *bench) master(ctx context.Context) ([]row, error) {
	a, err := b.runApp(ctx, "master", masterWorkers, b.example(), rollSettings)
	if err != nil {
		return nil, err
	}
	defer a.stop()
	if err := a.reload(); err != nil {
		return nil, err
	}
	pid := a.cmd.Process.Pid
	busy, err := pssOf(pid)
	if err != nil {
		return nil, err
	}
	megabytes, share, err := b.atRest(ctx, pid)
	if err != nil {
		return nil, err
	}
	reported, err := b.agentRows(ctx)
	return append([]row{
		promise("PSS of the master, 8 workers, at rest", "10 MB or less", megabytes <= 10, "%.1f MB", megabytes),
		note("PSS right after a roll", "%.1f MB", float64(busy)/1e6),
		promise("of a core, idle, 8 workers", "under 0.2 %", share < 0.2, "%.3f %%", share),
	}, reported...), err
}

// agentRows are what an app costs that is reported to a Redis: its master, and the
// fleet agent beside it.
func (b *bench) agentRows(ctx context.Context) ([]row, error) {
	r, err := b.startRedis(ctx)
	if err != nil {
		return nil, err
	}
	defer r.kill()
	a, err := b.runApp(ctx, "agent", masterWorkers, b.example(), fmt.Sprintf("[redis]\nurl = %q\n", r.url()))
	if err != nil {
		return nil, err
	}
	defer a.stop()
	masters, share, err := b.atRest(ctx, a.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	agent, err := agentOf(a.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	pss, err := pssOf(agent)
	agents := float64(pss) / 1e6
	return []row{
		note("PSS of a master that is reported to Redis", "%.1f MB", masters),
		note("PSS of its fleet agent", "%.1f MB, together %.1f MB", agents, masters+agents),
		note("of a core, idle, reported every 2 s", "%.3f %%", share),
	}, err
}

// atRest is what a master takes that nobody asks for anything: PSS in MB, the median of a
// look each second, as the master trims its memory from time to time; and processor time
// in percent of a core.
func (b *bench) atRest(ctx context.Context, pid int) (megabytes, share float64, err error) {
	// The predecessors drain and the usage figures go stale before it counts as idle.
	load.Pause(ctx, 5*time.Second)
	before, err := processorTime(pid)
	if err != nil {
		return 0, 0, err
	}
	var looks []float64
	start := time.Now()
	for time.Since(start) < b.plan.idleSpan && ctx.Err() == nil {
		load.Pause(ctx, time.Second)
		pss, err := pssOf(pid)
		if err != nil {
			return 0, 0, err
		}
		looks = append(looks, float64(pss)/1e6)
	}
	span := time.Since(start)
	after, err := processorTime(pid)
	return median(looks), 100 * float64(after-before) / float64(span), err
}

// agentOf returns the pid of a master's fleet agent.
func agentOf(master int) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	for _, file := range files {
		name, _ := os.ReadFile(file)
		stat, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "stat"))
		_, rest, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(rest); string(name) == "forkd-agent\n" && len(fields) > 1 && fields[1] == strconv.Itoa(master) {
			return strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return 0, errors.Join(errors.New("the master has no fleet agent"), err)
}

// pssOf returns a process's proportional share of memory, in bytes.
func pssOf(pid int) (int64, error) { return rollup(pid, "Pss:") }

// rollup returns a field of a process's smaps_rollup, in bytes (proc(5)).
func rollup(pid int, field string) (int64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == field {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("smaps_rollup has no %s", field)
}

// processorTime is what all threads of a process have used so far, to the
// nanosecond; /proc/PID/stat counts in ticks of 10 ms.
func processorTime(pid int) (time.Duration, error) {
	files, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task/*/schedstat"))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d has no schedstat", pid)
	}
	var sum time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		run, _, _ := strings.Cut(string(text), " ")
		nanoseconds, err := strconv.ParseInt(run, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("cannot read %s: %w", file, err)
		}
		sum += time.Duration(nanoseconds)
	}
	return sum, nil
}

// manyParallelism is the limit that a roll of many workers must keep, and
// manyDelay how long each of them takes to be ready.
const (
	manyParallelism = 10
	manyDelay       = 500 * time.Millisecond
)

func (b *bench) many(ctx context.Context) ([]row, error) {
	n := b.plan.manyWorkers
	settings := fmt.Sprintf("[ready]\nmode = \"delay\"\ndelay = \"%v\"\n[update]\nmonitor = \"1s\"\nparallelism = %d\n", manyDelay, manyParallelism)
	a, err := b.runApp(ctx, "many", n, b.example(), settings)
	if err != nil {
		return nil, err
	}
	defer a.stop()
	var asked []float64
	for range b.plan.asks {
		start := time.Now()
		if _, err := a.client.Status(ctx); err != nil {
			return nil, err
		}
		asked = append(asked, milliseconds(time.Since(start)))
	}
	low, mid, high := quartiles(asked)
	steps := (n + manyParallelism - 1) / manyParallelism
	w, err := a.watchRoll(ctx)
	if err != nil {
		return nil, err
	}
	return []row{
		promise(fmt.Sprintf("status of %d workers", n), "under 20 ms", mid < 20, "%.1f ms [%.1f .. %.1f], worst %.1f ms", mid, low, high, slices.Max(asked)),
		promise(fmt.Sprintf("starting at once, in a roll of %d", n), fmt.Sprintf("%d, never more", manyParallelism),
			w.starting.most <= manyParallelism && w.starting.usual == manyParallelism, "%d, at most %d", w.starting.usual, w.starting.most),
		promise(fmt.Sprintf("ready, in a roll of %d", n), fmt.Sprintf("never under %d", n), w.ready >= n, "%d at least", w.ready),
		note(fmt.Sprintf("a roll of %d", n), "%.1f s, of which it waited %.1f s for workers to be ready and 1 s as `monitor`",
			w.took.Seconds(), (time.Duration(steps) * manyDelay).Seconds()),
	}, nil
}

// watched is what a roll looked like from outside.
type watched struct {
	starting struct{ most, usual int } // successors that are not ready yet, by slot
	ready    int                       // fewest slots with a ready worker
	took     time.Duration
}

// watchRoll reloads once and looks on.
func (a *app) watchRoll(ctx context.Context) (w watched, err error) {
	start := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- a.reload() }()
	w.ready = int(^uint(0) >> 1)
	var starting []float64
	for {
		select {
		case err := <-ended:
			w.took = time.Since(start)
			w.starting.usual = int(median(starting) + 0.5)
			return w, err
		case <-time.After(50 * time.Millisecond):
		}
		status, err := a.client.Status(ctx)
		if err != nil {
			return w, errors.Join(err, <-ended)
		}
		w.ready = min(w.ready, status.Totals.Ready)
		if n := startingIn(status); status.Roll != nil && status.Roll.Done < status.Roll.Of {
			w.starting.most = max(w.starting.most, n)
			starting = append(starting, float64(n))
		}
	}
}

// startingIn counts the slots whose newest worker is not ready yet.
func startingIn(status control.App) int {
	n := 0
	for _, slot := range status.Slots {
		if slices.ContainsFunc(slot.Workers, func(w control.Worker) bool { return w.State == control.StateStarting }) {
			n++
		}
	}
	return n
}

func (b *bench) commands(ctx context.Context) ([]row, error) {
	a, err := b.runApp(ctx, "commands", masterWorkers, b.example(), "")
	if err != nil {
		return nil, err
	}
	defer a.stop()
	var status, version, cost []float64
	for range b.plan.commands {
		var took, used [3]float64
		for i, cmd := range []*exec.Cmd{a.command(ctx, "status", a.name), a.command(ctx, "version"), exec.CommandContext(ctx, b.program("bench-hello"))} {
			start := time.Now()
			if said, err := cmd.CombinedOutput(); err != nil {
				return nil, fmt.Errorf("%v: %w: %s", cmd, err, said)
			}
			took[i] = milliseconds(time.Since(start))
			used[i] = milliseconds(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime())
		}
		status, version, cost = append(status, took[0]), append(version, took[1]), append(cost, used[1]/used[2])
	}
	low, mid, high := quartiles(status)
	floor := median(version)
	return []row{
		promise("forkd status", "under 15 ms, or 3 x forkd version", mid < max(15, 3*floor), "%.1f ms [%.1f .. %.1f]", mid, low, high),
		promise("processor time of forkd version / a Go hello world", "1.5 or less", median(cost) <= 1.5, "%.2f", median(cost)),
		note("forkd version", "%.1f ms", floor),
	}, nil
}
