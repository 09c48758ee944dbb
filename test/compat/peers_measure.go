package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/forkd/forkd/test/load"
)

// A pace is how long the contenders are asked.
type pace struct {
	rounds int           // in each every contender is asked once
	span   time.Duration // of each load
}

const (
	fixedRate  = 400 // requests a second, for the latency
	asks       = 10  // of the status
	kills      = 3
	settleTime = 2 * time.Second // after a roll: uWSGI and puma overlook one that follows at once
	watched    = 4 * time.Second // after the command for a broken deploy has returned
)

// A contest is a contender on its stage, and what it has shown.
type contest struct {
	contender
	stage   *stage
	process *process // nil: it does not run
	good    []byte   // the release that works

	version, missing string
	cuts             bool                   // it closes connections without having said so
	rates            [len(habits)][]float64 // requests a second, by round
	p99              []time.Duration        // by round
	failed           load.Tally             // under these loads
	memory           int                    // of the master, RSS in bytes
	answer           time.Duration          // of the status, the median
	rolls, kills     [len(habits)]cost
	roll             []time.Duration
	deploys          [2]deploy
}

// A deploy is what came of a broken release.
type deploy struct {
	cost
	code   string // the exit status of the command
	said   string // what it, and the log meanwhile, said
	serves bool   // afterwards
}

// race measures all contenders: first together, in rounds, so that those that are
// compared are asked within seconds, then what is done to each, alone.
func race(ctx context.Context, chosen []contender, p pace, log io.Writer) []*contest {
	contests := make([]*contest, len(chosen))
	for i, c := range chosen {
		contests[i] = &contest{contender: c}
		contests[i].prepare(ctx)
	}
	running := slices.DeleteFunc(slices.Clone(contests), func(c *contest) bool { return c.missing != "" })
	defer func() {
		for _, c := range running {
			c.down(ctx)
		}
		for _, c := range running {
			c.stage.clear()
		}
	}()
	each := func(what string, do func(*contest) error) {
		for _, c := range running {
			start := time.Now()
			if c.missing == "" && ctx.Err() == nil {
				if err := do(c); err != nil {
					c.missing = what + ": " + err.Error()
				}
				fmt.Fprintf(log, "%s: %s, %.1f s %s\n", c.name, what, time.Since(start).Seconds(), c.missing)
			}
		}
	}
	each("start", func(c *contest) error { return c.up(ctx) })
	for round := range p.rounds {
		each(fmt.Sprintf("round %d of %d", round+1, p.rounds), func(c *contest) error { return c.ask(ctx, p.span) })
		slices.Reverse(running)
	}
	each("memory and status", func(c *contest) error { return c.look(ctx) })
	for _, c := range running {
		c.down(ctx)
	}
	sweep()
	each("disturb", func(c *contest) error { return c.disturbed(ctx) })
	return contests
}

func (c *contest) prepare(ctx context.Context) {
	var err error
	if c.stage, err = newStage(ctx, c.program); err == nil {
		if c.good, err = os.ReadFile(c.stage.words.Replace(c.release)); err == nil {
			c.version, err = c.stage.versionOf(ctx)
		}
		if err != nil {
			c.stage.clear()
		}
	}
	if err != nil {
		c.missing = err.Error()
	}
}

// up starts the release that works, with all of its workers. Down stops it.
func (c *contest) up(ctx context.Context) (err error) {
	if err := c.replace(c.good); err != nil {
		return err
	}
	if c.process, err = c.stage.start(c.own.command, nil); err != nil {
		return err
	}
	if err := c.stage.firstAnswer(ctx); err != nil {
		return err
	}
	if c.cuts, err = false, waitFor(ctx, "fewer than two workers", func() bool { return len(children(c.master())) >= 2 }); err != nil {
		return err
	}
	_, c.cuts = c.stage.keeps()
	return nil
}

func (c *contest) down(ctx context.Context) {
	if c.process == nil {
		return
	}
	if c.own.stop != nil {
		_, _ = c.stage.do(context.WithoutCancel(ctx), c.own.stop)
	}
	c.process.end()
	c.process = nil
}

// replace deploys a release: what runs keeps the file that it has.
func (c *contest) replace(release []byte) error {
	file := c.stage.words.Replace(c.release)
	if err := os.WriteFile(file+".new", release, 0o755); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func (c *contest) master() int {
	if c.daemon != "" {
		text, _ := os.ReadFile(c.stage.words.Replace(c.daemon))
		pid, _ := strconv.Atoi(string(bytes.TrimSpace(text)))
		return pid
	}
	return c.process.cmd.Process.Pid
}

// ask presses the contender with both habits, then asks it at a fixed rate.
func (c *contest) ask(ctx context.Context, span time.Duration) error {
	for i, habit := range habits {
		if habit == load.Keeping && c.cuts {
			continue
		}
		asking, end := context.WithTimeout(ctx, span+span/4)
		o := load.ClosedLoop(asking, c.stage.target, load.All(habit, clients), span/4)
		end()
		c.rates[i] = append(c.rates[i], o.Rate())
		c.count(o.Failures)
	}
	habit := load.Keeping
	if c.cuts {
		habit = load.Closing
	}
	o := load.FixedRate(ctx, c.stage.target, habit, clients, fixedRate, span)
	c.p99 = append(c.p99, o.Latency.Quantile(0.99))
	c.count(o.Failures)
	return nil
}

func (c *contest) count(failures []load.Failure) {
	for kind, n := range load.Count(failures) {
		c.failed[kind] += n
	}
}

// look takes the master's memory, and the time of its status command.
func (c *contest) look(ctx context.Context) (err error) {
	if c.memory, err = rss(c.master()); err != nil || c.status == nil {
		return err
	}
	var took []time.Duration
	for range asks {
		start := time.Now()
		if said, err := c.stage.do(ctx, c.status); err != nil {
			return fmt.Errorf("%w: %s", err, said)
		}
		took = append(took, time.Since(start))
	}
	c.answer = middle(took)
	return nil
}

// rss is the resident memory of a process in bytes (proc_pid_smaps(5)).
func rss(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "\nRss:")
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " kB")
	kilobytes, err := strconv.Atoi(number)
	return kilobytes << 10, err
}

// disturbed does to the contender, each time started anew, what the columns say.
func (c *contest) disturbed(ctx context.Context) error {
	anew := func(do func() cost) (cost, error) {
		err := c.up(ctx)
		if err != nil {
			return cost{}, err
		}
		defer func() {
			c.down(ctx)
			sweep()
		}()
		return do(), nil
	}
	settled := func(ctx context.Context) { load.Pause(ctx, time.Second) }
	var err error
	for i, habit := range habits {
		if c.rolls[i], err = anew(func() cost {
			return c.stage.disturb(ctx, habit, func() error { return c.rollThrice(ctx) }, settled)
		}); err != nil {
			return err
		}
		if c.kills[i], err = anew(func() cost {
			return c.stage.disturb(ctx, habit, func() error { return c.killThrice(ctx) }, settled)
		}); err != nil {
			return err
		}
	}
	for i, release := range c.broken {
		d := &c.deploys[i]
		if d.cost, err = anew(func() cost {
			broken := c.stage.disturb(ctx, load.Closing, func() error { return c.deploy(ctx, release, d) }, func(context.Context) {})
			_, failed := load.NewClient(c.stage.target).Ask(true)
			d.serves = failed == nil
			return broken
		}); err != nil {
			return err
		}
	}
	return nil
}

func (c *contest) rollThrice(ctx context.Context) error {
	for range rolls {
		took, err := c.rollOnce(ctx)
		if err != nil {
			return err
		}
		c.roll = append(c.roll, took)
		load.Pause(ctx, settleTime)
	}
	return nil
}

func (c *contest) rollOnce(ctx context.Context) (time.Duration, error) {
	if !c.restart {
		return c.stage.reloadOwn(ctx, c.master())
	}
	start := time.Now()
	c.down(ctx)
	err := c.up(ctx)
	return time.Since(start), err
}

func (c *contest) killThrice(ctx context.Context) error {
	for range kills {
		master := c.master()
		before := children(master)
		if len(before) == 0 {
			return errors.New("no workers are left")
		}
		if err := send(before[0], syscall.SIGKILL); err != nil {
			return err
		}
		if err := waitFor(ctx, "no successor", func() bool {
			now := children(master)
			return len(now) >= len(before) && !slices.Contains(now, before[0]) || c.daemon == "" && c.process.endsIn(0)
		}); err != nil {
			return err
		}
		if c.daemon == "" && c.process.endsIn(0) {
			return errors.New("the master has ended")
		}
		load.Pause(ctx, time.Second)
	}
	return nil
}

// deploy rolls a broken release out as an operator does, and keeps what that was told.
func (c *contest) deploy(ctx context.Context, release string, d *deploy) error {
	logged, _ := os.ReadFile(c.stage.dir + "/log")
	if err := c.replace([]byte(c.stage.words.Replace(release))); err != nil {
		return err
	}
	d.code = "none"
	switch {
	case c.restart:
		c.down(ctx)
		var err error
		if c.process, err = c.stage.start(c.own.command, nil); err != nil {
			return err
		}
	case c.own.by != nil:
		said, err := c.stage.do(ctx, c.own.by)
		d.said, d.code = said, "0"
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			d.code = strconv.Itoa(exit.ExitCode())
		} else if err != nil {
			return err
		}
	default:
		if err := send(c.master(), c.own.reload); err != nil {
			return err
		}
	}
	load.Pause(ctx, watched)
	if c.restart && c.process.endsIn(0) {
		d.code = strconv.Itoa(c.process.cmd.ProcessState.ExitCode())
	}
	if log, err := os.ReadFile(c.stage.dir + "/log"); err == nil && d.said == "" {
		d.said = string(log[len(logged):])
	}
	d.said = c.plain(d.said)
	return nil
}

// plain is what was printed, without colours and without this machine's paths.
func (c *contest) plain(said string) string {
	said = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`).ReplaceAllString(said, "")
	said = strings.ReplaceAll(said, c.stage.dir, "$DIR")
	return strings.TrimSpace(strings.ReplaceAll(said, c.stage.words.Replace("$BIN"), "$BIN"))
}

// middle is the median, 0 of none.
func middle[T time.Duration | float64](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
