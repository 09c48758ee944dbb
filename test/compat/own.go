package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/forkd/forkd/test/load"
)

// measureOwn does the three rolls of both habits by the program's own master.
func (s *stage) measureOwn(ctx context.Context) (costs [len(habits)]cost) {
	fail := func(err error) [len(habits)]cost {
		for i := range costs {
			costs[i] = cost{measured: true, err: err}
		}
		return costs
	}
	p, err := s.start(s.program.own.command, nil)
	if err != nil {
		return fail(err)
	}
	defer func() {
		if s.program.own.stop != nil {
			_, _ = s.do(context.WithoutCancel(ctx), s.program.own.stop)
		}
		p.end()
		s.sweep()
	}()
	if err := s.firstAnswer(ctx); err != nil {
		return fail(err)
	}
	for i, habit := range habits {
		costs[i] = s.disturb(ctx, habit, func() error {
			for range rolls {
				if _, err := s.reloadOwn(ctx, p.cmd.Process.Pid); err != nil {
					return err
				}
			}
			return nil
		}, func(context.Context) {})
	}
	return costs
}

// firstAnswer waits until the program answers.
func (s *stage) firstAnswer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	client := load.NewClient(s.target)
	for ctx.Err() == nil {
		if _, failed := client.Ask(true); failed == nil {
			return nil
		}
		load.Pause(ctx, 10*time.Millisecond)
	}
	return fmt.Errorf("does not answer by itself: %s", s.lastLine())
}

// reloadOwn reloads once, and waits until none is left of the workers that its master
// had, which is what it took, and until the command has returned. A daemon is not known
// to the compatibility table: its command waits.
func (s *stage) reloadOwn(ctx context.Context, master int) (took time.Duration, err error) {
	before, start := children(master), time.Now()
	returned := make(chan error, 1)
	if by := s.program.own.by; by != nil {
		go func() {
			said, err := s.do(ctx, by)
			if err != nil {
				err = fmt.Errorf("%w: %s", err, said)
			}
			returned <- err
		}()
	} else {
		returned <- send(master, s.program.own.reload)
	}
	err = waitFor(ctx, "old workers stay", func() bool {
		now := children(master)
		return len(now) >= len(before) && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(before, pid) })
	})
	took = time.Since(start)
	return took, cmp.Or(<-returned, err)
}

// waitFor waits until something is so, or says after startTime that it is not.
func waitFor(ctx context.Context, not string, is func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for !is() {
		if ctx.Err() != nil {
			return fmt.Errorf("%s over %v", not, startTime)
		}
		load.Pause(ctx, 10*time.Millisecond)
	}
	return nil
}

// send signals a process by its pidfd: never a stranger's.
func send(pid int, s syscall.Signal) error {
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer func() { _ = process.Release() }()
	return process.Signal(s)
}
