package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
				if err := s.reloadOwn(ctx, p); err != nil {
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

// reloadOwn reloads once, and waits until none is left of the workers that were there.
func (s *stage) reloadOwn(ctx context.Context, p *process) error {
	if by := s.program.own.by; by != nil {
		said, err := s.do(ctx, by)
		if err != nil {
			return fmt.Errorf("%w: %s", err, said)
		}
		return nil
	}
	pid := p.cmd.Process.Pid
	before := children(pid)
	if err := p.cmd.Process.Signal(s.program.own.reload); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for ctx.Err() == nil {
		now := children(pid)
		if len(now) >= len(before) && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(before, pid) }) {
			return nil
		}
		load.Pause(ctx, 10*time.Millisecond)
	}
	return errors.New("old workers stay over " + startTime.String())
}
