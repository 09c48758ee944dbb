package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const howSpawn = "A worker whose first act is to read the processor time of its own process, which runs on from fork through exec " +
	"(CLOCK_PROCESS_CPUTIME_ID), less the same program's figure when it is started directly."

const probeFlag = "--probe"

// probe is the worker of the spawn figure: it leaves its processor time in dir,
// in nanoseconds under its pid, and stays until it is told to go.
func probe(dir string) {
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &used); err != nil {
		fmt.Fprintln(os.Stderr, "bench: cannot read the processor time:", err)
		os.Exit(1)
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	file := filepath.Join(dir, strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(file+".new", strconv.AppendInt(nil, used.Nano(), 10), 0o600); err == nil {
		err = os.Rename(file+".new", file)
		if err == nil {
			<-told
			return
		}
	}
	os.Exit(1)
}

func (b *bench) spawn(ctx context.Context) ([]row, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	forked, err := b.forked(ctx, self, "auto")
	if err != nil {
		return nil, err
	}
	passed, err := b.forked(ctx, self, "pass")
	if err != nil {
		return nil, err
	}
	bare, err := b.probes("bare", func(dir string) (func(), error) { return b.bareProbes(self, dir) })
	if err != nil {
		return nil, err
	}
	low, mid, high := quartiles(forked)
	floor := median(bare)
	return []row{
		promise("processor time between fork and exec", "2 ms or less", mid-floor <= 2, "%.2f ms [%.2f .. %.2f]", mid-floor, low-floor, high-floor),
		note("the same without a filter (`sockets = \"pass\"`)", "%.2f ms", median(passed)-floor),
		note("the probe itself, started directly", "%.2f ms", floor),
	}, nil
}

// forked are probes under forkd.
func (b *bench) forked(ctx context.Context, self, sockets string) ([]float64, error) {
	return b.probes(sockets, func(dir string) (func(), error) {
		a, err := b.runApp(ctx, "spawn-"+sockets, b.plan.spawns, []string{self, probeFlag, dir},
			fmt.Sprintf("sockets = %q\n[ready]\nmode = \"delay\"\ndelay = \"500ms\"\n", sockets))
		if err != nil {
			return nil, err
		}
		return a.stop, nil
	})
}

// probes has run start as many probes as the plan says, and collects what they
// left.
func (b *bench) probes(name string, run func(dir string) (stop func(), err error)) ([]float64, error) {
	dir := filepath.Join(b.dir, "probes-"+name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	stop, err := run(dir)
	if err != nil {
		return nil, err
	}
	defer stop()
	var used []float64
	for deadline := time.Now().Add(startTime); len(used) < b.plan.spawns; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return nil, errors.New("the probes have not all reported in time")
		}
		used = used[:0]
		files, err := filepath.Glob(filepath.Join(dir, "*[0-9]"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			nanoseconds, err := strconv.ParseInt(string(text), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("a probe left %q", text)
			}
			used = append(used, milliseconds(time.Duration(nanoseconds)))
		}
	}
	return used, nil
}

// bareProbes starts the probes without forkd.
func (b *bench) bareProbes(self, dir string) (stop func(), err error) {
	var started []*exec.Cmd
	stop = func() {
		for _, cmd := range started {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
	}
	for range b.plan.spawns {
		cmd := exec.Command(self, probeFlag, dir)
		if err := cmd.Start(); err != nil {
			stop()
			return nil, err
		}
		started = append(started, cmd)
	}
	return stop, nil
}
