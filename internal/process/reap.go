package process

import (
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pollHeld is how often a group that has outlived its leader is looked at:
	// who in it is no child of ours ends without a SIGCHLD.
	pollHeld = 200 * time.Millisecond
	// listGap bounds what it costs to look through all processes of the machine
	// while children come and go beside such a group.
	listGap = 50 * time.Millisecond
)

// reaper sweeps whenever a child may have died, and tells who watches. died is
// its SIGCHLD.
func (c *Children) reaper(died chan os.Signal) {
	defer close(c.ended)
	defer signal.Stop(died)
	timer := time.NewTimer(pollHeld)
	defer timer.Stop()
	for {
		select {
		case <-died:
		case <-c.woken:
		case <-timer.C:
		case <-c.closed:
			return
		}
		calls, dead, again := c.sweep(time.Now())
		for _, call := range calls {
			call()
		}
		if len(dead) > 0 {
			c.burials.Go(func() { c.bury(dead) })
		}
		if again > 0 {
			timer.Reset(again)
		} else {
			timer.Stop()
		}
	}
}

// sweep takes note of every death since the last one. It returns what to tell,
// whom to bury after that, and, while a group outlives its leader, when to look
// again.
func (c *Children) sweep(now time.Time) (calls []func(), dead []*Process, again time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var l listing
	rested := !now.Before(c.relist)
	held, dead := c.sweepWorkers(now, rested, &l)
	switch {
	case !held:
		c.sweepStrangers()
	case rested || l.read:
		c.sweepStrangersBeside(l.all())
		again = pollHeld
	default:
		again = c.relist.Sub(now)
	}
	if l.read {
		c.relist = now.Add(listGap)
	}
	calls, c.calls = c.calls, nil
	return calls, dead, again
}

// sweepWorkers notes which leaders have ended and returns those whose group is
// empty. It reports whether any is held back. A new death is looked into at
// once, since somebody waits for it; a held one when rested.
func (c *Children) sweepWorkers(now time.Time, rested bool, l *listing) (held bool, dead []*Process) {
	for _, p := range c.workers {
		if p.over {
			continue // being buried
		}
		if p.exit == nil {
			exit, ended := peekExit(p.pid, now)
			if !ended {
				if !hasEnded(p.handle) {
					continue
				}
				if exit, ended = peekExit(p.pid, now); !ended {
					exit = Exit{At: now, Code: -1, Traced: true}
				}
			}
			exit.Leftovers = exit.Traced || groupLives(p.pid, l)
			p.exit = &exit
			c.tellExited(p)
			if exit.Leftovers {
				held = true
				continue
			}
		} else if !rested || groupLives(p.pid, l) || p.exit.Traced && !isReapable(p.pid) {
			held = true
			continue
		}
		p.over = true
		c.tellGroupEnded(p)
		dead = append(dead, p)
	}
	return held, dead
}

// Inspect has the reaper look where a leader has ended without SIGCHLD: of one that
// is traced only the tracer gets it (ptrace(2)). Call it each second.
func (c *Children) Inspect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var running []unix.PollFd
	for _, p := range c.workers {
		if p.exit == nil {
			running = append(running, unix.PollFd{Fd: int32(p.handle), Events: unix.POLLIN})
		}
	}
	if n, _ := unix.Poll(running, 0); n > 0 {
		c.wake()
	}
}

// bury reaps leaders whose group is empty, beside everything else: the kernel
// may take seconds over it where somebody has just looked into the process's
// /proc (proc_flush_pid in fs/proc/base.c). Until then they are known, so that a
// sweep does not take them for strangers.
func (c *Children) bury(dead []*Process) {
	c.burying.Lock() // one blocks a thread
	defer c.burying.Unlock()
	for _, p := range dead {
		reapHandle(p.handle)
		c.mu.Lock()
		unix.Close(p.handle)
		if c.workers[p.pid] == p { // else the number has found a new worker
			delete(c.workers, p.pid)
		}
		c.freeLine(p.line)
		c.mu.Unlock()
		close(p.gone)
	}
	c.wake() // for strangers behind them in the kernel's list
}

// sweepStrangers reaps every dead child that is no worker. A leader that died
// since sweepWorkers ends it: its own SIGCHLD is on the way.
func (c *Children) sweepStrangers() {
	for {
		info, dead := peek(unix.P_ALL, 0)
		if !dead || c.workers[int(info.pid)] != nil {
			return
		}
		c.reapStranger(int(info.pid))
	}
}

// sweepStrangersBeside does the same while a leader is held: waitid would show
// only that one, over and over.
func (c *Children) sweepStrangersBeside(pids []int) {
	for _, pid := range pids {
		if c.workers[pid] == nil {
			c.reapStranger(pid)
		}
	}
}

func (c *Children) reapStranger(pid int) {
	if !reap(pid) {
		return
	}
	delete(c.before, pid) // the number may come again, with another behind it
	if o := c.orphans[pid]; o != nil {
		o.gone = true
		c.freeLine(o.line)
		delete(c.orphans, pid)
		select {
		case c.fewer <- struct{}{}:
		default: // it says so already
		}
	}
}

// tellExited queues the news that the leader has ended.
func (c *Children) tellExited(p *Process) {
	if p.exited == nil || p.abandoned {
		return // Watch comes later, or never
	}
	exited, exit := p.exited, *p.exit
	c.calls = append(c.calls, func() { exited(exit) })
}

// tellGroupEnded queues the news that the last of the group is gone, where
// exited promised it.
func (c *Children) tellGroupEnded(p *Process) {
	if p.groupEnded == nil || p.abandoned || !p.exit.Leftovers {
		return
	}
	c.calls = append(c.calls, p.groupEnded)
}
