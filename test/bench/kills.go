package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/test/load"
)

const howKills = "The 32 clients of the rolls, and SIGKILL to a worker every 3 s, to the slots in turn. A moment before, the worker is stopped (SIGSTOP), so that the kernel can be asked " +
	"which connections it had accepted (sock_diag: they have an inode, those that are only queued have none). " +
	"A request on an accepted connection dies with its worker; any other failure is forkd's. " +
	"A slot is back when its next worker is ready. Between the kills, under the same load, the same program is started alone and timed to its first answer."

// barePort is where the example serves when nobody hands it a socket.
const barePort = 8080

// A kill is one worker's end, and what it takes with it.
type kill struct {
	at   time.Time
	had  connections
	back time.Duration // until the slot was ready again
}

// explains reports whether a failure is one that the kill could not but cause.
func (k *kill) explains(f load.Failure) bool {
	return k.had.accepted[f.Port] && f.Opened.Before(k.at) && f.At.After(k.at)
}

// onlyQueued reports whether the failed connection stood in a queue at the kill.
func (k *kill) onlyQueued(f load.Failure) bool {
	return k.had.queued[f.Port] && f.Opened.Before(k.at) && f.At.After(k.at)
}

func (b *bench) kills(ctx context.Context) ([]row, error) {
	a, err := b.runApp(ctx, "kills", b.cores, b.example(), "")
	if err != nil {
		return nil, err
	}
	defer a.stop()

	finish, abandon := b.underLoad(ctx, a.address)
	defer abandon()
	kills, bare, err := b.killAndStart(ctx, a)
	o := finish()
	if err != nil {
		return nil, err
	}

	var lost, queued, rest []load.Failure
	for _, f := range o.Failures {
		switch {
		case slices.ContainsFunc(kills, func(k kill) bool { return k.explains(f) }):
			lost = append(lost, f)
		case slices.ContainsFunc(kills, func(k kill) bool { return k.onlyQueued(f) }):
			queued = append(queued, f)
		default:
			rest = append(rest, f)
		}
	}
	var back []float64
	waiting := 0
	for _, k := range kills {
		back = append(back, milliseconds(k.back))
		waiting += len(k.had.queued)
	}
	low, mid, high := quartiles(back)
	alone := median(bare)
	others := load.Count(rest)
	return []row{
		promise("failed, of connections that were only queued", "0", len(queued) == 0, "%v of %d", load.Count(queued), waiting),
		promise("failed otherwise: refused, reset, eof, timeout", "0", others.Total() == 0, "%v of %s", others, thousands(float64(o.Requests))),
		note("lost with the workers that had accepted them", "%v in %d kills", load.Count(lost), len(kills)),
		promise("slot ready again / bare start to first answer", "1.3 or less", mid <= 1.3*alone, "%.2f", mid/alone),
		note("slot ready again", "%.1f ms [%.1f .. %.1f], bare start %.1f ms", mid, low, high, alone),
	}, nil
}

// killAndStart takes turns: a kill, and half an interval later a bare start.
func (b *bench) killAndStart(ctx context.Context, a *app) (kills []kill, bare []float64, err error) {
	next := time.Now()
	for i := range b.plan.kills {
		next = next.Add(b.plan.killEvery / 2)
		load.Pause(ctx, time.Until(next))
		took, err := b.bareStart(ctx)
		if err != nil {
			return nil, nil, err
		}
		bare = append(bare, milliseconds(took))

		next = next.Add(b.plan.killEvery / 2)
		load.Pause(ctx, time.Until(next))
		k, err := killOne(ctx, a, i)
		if err != nil {
			return nil, nil, err
		}
		kills = append(kills, k)
	}
	return kills, bare, nil
}

func (b *bench) bareStart(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	s, err := launch(barePort, nil, b.example()[0])
	if err != nil {
		return 0, err
	}
	defer s.stop()
	answer, err := s.firstAnswer(ctx)
	took := time.Since(start)
	if err == nil && !strings.HasPrefix(answer, strconv.Itoa(s.cmd.Process.Pid)+" ") {
		err = fmt.Errorf("port %d, where the example serves when alone, is held by something else", barePort)
	}
	return took, err
}

// killOne kills the worker of the next slot, whose turns are far enough apart to be no
// failures in a row, and waits for its successor.
func killOne(ctx context.Context, a *app, turn int) (k kill, err error) {
	status, err := a.client.Status(ctx)
	if err != nil {
		return k, err
	}
	slot := turn % len(status.Slots)
	pid := readyPID(status.Slots[slot])
	if pid == 0 {
		return k, fmt.Errorf("slot %d has no ready worker to kill", slot)
	}
	process, err := os.FindProcess(pid) // a pidfd: never a stranger's
	if err != nil {
		return k, err
	}
	defer func() { _ = process.Release() }()
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		return k, fmt.Errorf("cannot stop worker %d: %w", pid, err)
	}
	if err = untilStopped(ctx, pid); err == nil {
		k.had, err = connectionsOf(pid, a.address.Port)
	}
	k.at = time.Now()
	if killed := process.Signal(syscall.SIGKILL); err != nil || killed != nil {
		return k, errors.Join(err, killed)
	}
	ready, err := a.successor(ctx, slot, pid)
	k.back = ready.Sub(k.at)
	return k, err
}

func readyPID(slot control.Slot) int {
	for _, w := range slot.Workers {
		if w.State == control.StateReady {
			return w.PID
		}
	}
	return 0
}

// successor waits until the slot has a ready worker other than pid, and returns
// when that became ready, by the master's own clock. It looks late: the master's answer would
// take the time of the start.
func (a *app) successor(ctx context.Context, slot, pid int) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		load.Pause(ctx, 50*time.Millisecond)
		status, err := a.client.Status(ctx)
		if err != nil {
			return time.Time{}, err
		}
		for _, w := range status.Slots[slot].Workers {
			if w.PID != pid && w.ReadyAt != nil {
				return *w.ReadyAt, nil
			}
		}
	}
}

// standstill is how long a stopped process must have used no processor time to
// count as standing: a thread that is still on its way may wait that long for
// its turn on a busy machine.
const standstill = 10 * time.Millisecond

// untilStopped waits until no thread of a process that was sent SIGSTOP runs any
// more. It asks for the process's clock and stays out of /proc/PID/task: the
// kernel takes long to bury a process whose threads were looked at there
// (proc_flush_pid), and it is the master who would wait.
func untilStopped(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var used unix.Timespec
	for since := time.Now(); time.Since(since) < standstill; load.Pause(ctx, time.Millisecond) {
		var now unix.Timespec
		// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED), linux/posix-timers.h
		if err := unix.ClockGettime(int32(^pid<<3|2), &now); err != nil {
			return fmt.Errorf("cannot read the clock of worker %d: %w", pid, err)
		}
		if now != used {
			used, since = now, time.Now()
		}
		if ctx.Err() != nil {
			return fmt.Errorf("worker %d does not stop", pid)
		}
	}
	return nil
}
