package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/test/load"
)

const (
	clients = 8 // at a time, which never retry
	rolls   = 3
)

// habits are how the clients use their connections, in the order of the columns.
var habits = [...]load.Habit{load.Closing, load.Keeping} //nolint:gochecknoglobals // an array can't be a constant

// measure runs one program in every way that its row has a column for.
func measure(ctx context.Context, p program) (r row) {
	r.program = p
	s, err := newStage(ctx, p)
	if err != nil {
		r.missing = err.Error()
		return r
	}
	defer s.clear()
	if r.version, err = s.versionOf(ctx); err != nil {
		r.missing = err.Error()
		return r
	}
	listen := []string{"--listen", fmt.Sprintf(":%d", s.port)}
	if !p.job && !p.declared {
		r.gaps[0] = s.boot(ctx, nil)
	}
	if !p.job {
		r.gaps[1] = s.boot(ctx, listen)
	}
	r.declared = r.gaps[1].err
	if !p.declared {
		r.natural = s.serve(ctx, &r, nil)
	}
	if (p.declared || r.natural != nil) && r.declared == nil && !p.job {
		r.declared = s.serve(ctx, &r, listen)
	}
	if p.own != nil {
		r.own = s.measureOwn(ctx)
	}
	return r
}

// versionOf is the first number with a point that the program's version command prints.
func (s *stage) versionOf(ctx context.Context) (string, error) {
	if s.version == "go version" {
		return strings.TrimPrefix(runtime.Version(), "go"), nil
	}
	if file := s.words.Replace(s.version); strings.HasSuffix(file, "package.json") {
		text, err := os.ReadFile(file)
		var module struct{ Version string }
		return module.Version, errors.Join(err, json.Unmarshal(text, &module))
	}
	if _, err := exec.LookPath(s.replaced(s.program.command)[0]); err != nil {
		return "", err
	}
	said, err := s.do(ctx, strings.Fields(s.version))
	version := regexp.MustCompile(`\d+(\.\d+)+`).FindString(said)
	if version == "" {
		err = errors.Join(err, fmt.Errorf("%s says no version", s.version))
	}
	return version, err
}

// boot starts one worker that takes 3 s to be able to answer, and compares when it is
// said to be ready with the first answer that a client gets which asks all the time.
func (s *stage) boot(ctx context.Context, flags []string) gap {
	command, env := append([]string{"sh", "-c", `sleep 3; exec "$@"`, "sh"}, s.program.command...), []string(nil)
	if s.slow != nil {
		command, env = s.slow.command, s.slow.env
	}
	a, err := s.run(1, flags, command, env)
	if err != nil {
		return gap{err: err}
	}
	defer a.kill()
	asking, give := context.WithTimeout(ctx, startTime)
	defer give()
	answered := make(chan time.Time, 1)
	go func() {
		defer close(answered)
		client := load.NewClient(s.target)
		client.Timeout = startTime
		for asking.Err() == nil {
			if _, failed := client.Ask(true); failed == nil {
				answered <- time.Now()
				return
			}
			load.Pause(asking, time.Millisecond)
		}
	}()
	status, err := a.ready(ctx)
	if err != nil {
		return gap{err: err}
	}
	first, ok := <-answered
	if !ok {
		return gap{err: errors.New("ready, and no answer")}
	}
	workers := status.Slots[0].Workers
	return gap{known: true, late: workers[len(workers)-1].ReadyAt.Sub(first)}
}

// serve starts two workers and does to them what the columns say. The error is why
// they do not serve.
func (s *stage) serve(ctx context.Context, r *row, flags []string) error {
	a, err := s.run(2, flags, s.program.command, nil)
	if err != nil {
		return err
	}
	stopped := false
	defer func() {
		if !stopped {
			a.kill()
		}
	}()
	if _, err := a.ready(ctx); err != nil {
		return err
	}
	if d, err := a.client.Describe(ctx); err == nil {
		r.seen = seenHow(d)
	}
	if s.job {
		if err := a.rollJobs(ctx, r); err != nil {
			return err
		}
	} else {
		if err := s.answers(ctx); err != nil {
			return err
		}
		for i, habit := range habits {
			r.rolls[i] = s.disturb(ctx, habit, func() error { return a.rollThrice(ctx, habit, r) }, a.settled)
		}
		if n := a.restarts(ctx); n != 0 {
			r.note = fmt.Sprintf("workers ended by themselves: %d", n)
		}
		r.kill = s.disturb(ctx, load.Closing, func() error { return a.killOne(ctx) }, a.settled)
	}
	stopped = true
	r.stopped = a.stop(ctx)
	return nil
}

// answers asks often enough to have met both workers, where the answers say which it
// was: they begin with its pid.
func (s *stage) answers(ctx context.Context) error {
	client := load.NewClient(s.target)
	pids := map[string]bool{}
	for range 64 {
		body, failed := client.Ask(true)
		if failed != nil {
			return fmt.Errorf("ready, but a request failed: %w", failed.Err)
		}
		if pid, rest, _ := strings.Cut(string(body), " "); rest == "says hello\n" {
			pids[pid] = true
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if len(pids) == 1 {
		return errors.New("ready, but one worker answers everything")
	}
	return nil
}

// keeps reports whether the program keeps connections after an answer, and whether it
// closes them without having said so.
func (s *stage) keeps() (keeps, cuts bool) {
	client := load.NewClient(s.target)
	defer client.Close()
	if _, failed := client.Ask(false); failed != nil || client.Conn == nil {
		return false, false
	}
	_, failed := client.Ask(false)
	return failed == nil, failed != nil
}

// disturb has the clients ask while something is done, and until it has settled.
func (s *stage) disturb(ctx context.Context, habit load.Habit, do func() error, settled func(context.Context)) cost {
	if _, cuts := s.keeps(); habit == load.Keeping && cuts {
		return cost{cuts: true}
	}
	asking, end := context.WithCancel(ctx)
	defer end()
	seen := make(chan load.Outcome, 1)
	go func() { seen <- load.ClosedLoop(asking, s.target, load.All(habit, clients), 0) }()
	load.Pause(ctx, 300*time.Millisecond)
	err := do()
	settled(ctx)
	load.Pause(ctx, 300*time.Millisecond)
	end()
	o := <-seen
	return cost{measured: true, err: err, asked: o.Requests + len(o.Failures), failed: load.Count(o.Failures), longest: o.Latency.Quantile(1)}
}

func (a *app) rollThrice(ctx context.Context, habit load.Habit, r *row) error {
	if habit == load.Keeping {
		a.compareCounts(ctx, r)
	}
	for range rolls {
		if err := a.reload(ctx); err != nil {
			return err
		}
	}
	return nil
}

// compareCounts notes who counts, and how many connections are counted while so many
// clients have one open each, if the program keeps them.
func (a *app) compareCounts(ctx context.Context, r *row) {
	kept, _ := a.keeps()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		status, err := a.status(ctx)
		if err == nil {
			r.counted = status.Slots[0].Workers[0].Counted
			if n := status.Totals.Connections; n != nil && kept {
				r.connections = *n
			}
			if r.connections == clients || status.Totals.Connections != nil && !kept {
				return
			}
		}
		load.Pause(ctx, 50*time.Millisecond)
	}
}

// rollJobs gives the workers jobs, and rolls them while they work.
func (a *app) rollJobs(ctx context.Context, r *row) error {
	const jobs = 300
	for i := range jobs {
		if err := os.WriteFile(fmt.Sprintf("%s/new/%04d", a.dir, i), nil, 0o644); err != nil {
			return err
		}
	}
	c := cost{measured: true, asked: jobs}
	for range rolls {
		if c.err = a.reload(ctx); c.err != nil {
			break
		}
	}
	for until := time.Now().Add(startTime); time.Now().Before(until) && ctx.Err() == nil; load.Pause(ctx, 20*time.Millisecond) {
		done, err := os.ReadDir(a.dir + "/done")
		if err != nil {
			return err
		}
		if c.failed[load.Local] = jobs - len(done); c.failed.Total() == 0 {
			break
		}
	}
	r.rolls[0] = c
	r.kill = cost{measured: true, err: a.killOne(ctx)}
	return nil
}

// seenHow is how the workers were found to be ready.
func seenHow(d control.Description) string {
	_, how, _ := strings.Cut(d.Readiness, "; those that are: ")
	return how
}
