package process

import (
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

const (
	// groupInterval is how often to poll a group that has outlived its leader: members
	// that are no children of this process end without a SIGCHLD.
	groupInterval = 200 * time.Millisecond
	// listInterval is the least time between two listings of all processes for such
	// groups, if other children come and go meanwhile.
	listInterval = 50 * time.Millisecond
	// reapRest is how long a dead leader rests before it is reaped. The kernel announces its
	// death before the last of its threads has removed its own directory of /proc, and a
	// reaper spins meanwhile (shrink_dcache_parent in fs/dcache.c): on a busy machine for
	// milliseconds, just when its successor starts.
	reapRest = 50 * time.Millisecond
)

// reaper sweeps whenever a child may have died, and runs the callbacks. died receives
// SIGCHLD.
func (c *Children) reaper(died chan os.Signal) {
	defer close(c.ended)
	defer signal.Stop(died)
	var timer <-chan time.Time
	for {
		select {
		case <-died:
		case <-c.woken:
		case <-timer:
		case <-c.closed:
			return
		}
		calls, dead, again := c.sweep(time.Now())
		for _, call := range calls {
			call()
		}
		if len(dead) > 0 {
			c.releases.Go(func() { c.release(dead) })
		}
		timer = nil
		if again > 0 {
			timer = time.After(again)
		}
	}
}

// sweep records all deaths since the last sweep and reaps foreign children. It returns the
// callbacks to run, the leaders to reap after that, and, while a group outlives its leader,
// when to sweep again.
func (c *Children) sweep(now time.Time) (calls []func(), dead []*Process, again time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rested := !now.Before(c.relist)
	pids := sync.OnceValue(func() []int {
		c.relist = now.Add(listInterval)
		return procfs.PIDs()
	})
	held, dead := c.sweepWorkers(now, rested, pids)
	switch {
	case !held:
		c.reapForeign()
	case rested:
		// waitid would return only the dead leader again and again.
		for _, pid := range pids() {
			if c.workers[pid] == nil {
				c.reapChild(pid)
			}
		}
		again = groupInterval
	default:
		again = c.relist.Sub(now)
	}
	calls, c.calls = c.calls, nil
	return calls, dead, again
}

// sweepWorkers records which leaders have ended and returns those whose group is
// empty. held: a group outlives its leader. The group of a new death is searched at
// once, those of older ones only when rested.
func (c *Children) sweepWorkers(now time.Time, rested bool, pids func() []int) (held bool, dead []*Process) {
	for _, p := range c.workers {
		if p.over {
			continue // being reaped
		}
		if p.exit == nil {
			if !HasEnded(p.handle) {
				continue
			}
			exit, known := peekExit(p.pid, now)
			if !known {
				exit = Exit{At: now, Code: -1, Traced: true}
			}
			exit.Leftovers = exit.Traced || c.groupLives(p.pid, pids)
			p.signaling.Lock()
			p.exit = &exit
			p.signaling.Unlock()
			c.queueExited(p)
			if exit.Leftovers {
				held = true
				continue
			}
		} else if !rested || c.groupLives(p.pid, pids) || p.exit.Traced && !isReapable(p.pid) {
			held = true
			continue
		}
		p.signaling.Lock()
		p.over = true
		p.signaling.Unlock()
		c.queueGroupEnded(p)
		dead = append(dead, p)
	}
	return held, dead
}

// Inspect finds what no SIGCHLD has announced: the end of a traced leader, of which only
// the tracer gets one (ptrace(2)). Call it each second.
func (c *Children) Inspect() { c.wake() }

// release reaps leaders whose group is empty, later and on its own goroutine: the kernel may
// take seconds if the process's /proc has just been read (proc_flush_pid in fs/proc/base.c).
// Until then they stay in c.workers, so that a sweep does not take them for foreign.
func (c *Children) release(dead []*Process) {
	select {
	case <-time.After(reapRest):
	case <-c.closed:
	}
	c.releasing.Lock() // each blocks a thread
	defer c.releasing.Unlock()
	for _, p := range dead {
		reap(unix.P_PIDFD, p.handle)
		c.mu.Lock()
		unix.Close(p.handle)
		if c.workers[p.pid] == p { // else a new worker has the same pid
			delete(c.workers, p.pid)
		}
		c.freeLine(p.line)
		c.mu.Unlock()
		close(p.gone)
	}
	c.wake() // for foreign children after them in the kernel's list
}

// reapForeign reaps every dead child that is no worker. It ends at a leader that died
// since sweepWorkers, for which a SIGCHLD follows.
func (c *Children) reapForeign() {
	for {
		info, dead := waitid(unix.P_ALL, 0, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if !dead || c.workers[int(info.pid)] != nil {
			return
		}
		c.reapChild(int(info.pid))
	}
}

func (c *Children) reapChild(pid int) {
	if !reap(unix.P_PID, pid) {
		return
	}
	delete(c.before, pid) // another process may get this pid
	if o := c.orphans[pid]; o != nil {
		o.gone = true
		c.freeLine(o.line)
		delete(c.orphans, pid)
		poke(c.fewer)
	}
}

// queueExited queues the exited callback, if Watch has set it.
func (c *Children) queueExited(p *Process) {
	if exited, exit := p.exited, *p.exit; exited != nil && !p.abandoned {
		c.calls = append(c.calls, func() { exited(exit) })
	}
}

// queueGroupEnded queues the groupEnded callback, if Exit.Leftovers announced it.
func (c *Children) queueGroupEnded(p *Process) {
	if p.groupEnded != nil && !p.abandoned && p.exit.Leftovers {
		c.calls = append(c.calls, p.groupEnded)
	}
}

// peekExit is how a child has ended; it stays unreaped. Not ended: while a tracer holds it,
// too.
func peekExit(pid int, now time.Time) (exit Exit, ended bool) {
	var used unix.Rusage
	info, dead := waitid(unix.P_PID, pid, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, &used)
	exit = info.exit(now)
	exit.CPU = time.Duration(used.Utime.Nano() + used.Stime.Nano())
	return exit, dead
}

// isReapable reports whether pid is a dead child that no tracer holds.
func isReapable(pid int) bool {
	_, dead := peekExit(pid, time.Time{})
	return dead
}

// reap reaps a child, by pid (unix.P_PID) or pidfd (unix.P_PIDFD, kernel 5.4), if it is
// dead, and reports whether it was.
func reap(idType, id int) bool {
	_, dead := waitid(idType, id, unix.WEXITED|unix.WNOHANG, nil)
	return dead
}

// hasLivingChild reports whether pid is a living child (unix.P_PID), or one is in a
// group (unix.P_PGID). The kernel returns ECHILD if nothing could satisfy the wait, and
// a dead child can't be stopped any more (wait_consider_task in kernel/exit.c).
func hasLivingChild(idType, id int) bool {
	var info unix.Siginfo
	return unix.Waitid(idType, id, &info, unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT, nil) == nil
}

// waitid has WNOHANG among its options, so no signal interrupts it. used, if it is not nil,
// gets what a dead child and those that it has waited for have used (wait_task_zombie in
// kernel/exit.c).
func waitid(idType, id, options int, used *unix.Rusage) (siginfoChild, bool) {
	var info unix.Siginfo
	err := unix.Waitid(idType, id, &info, options, used)
	child := *(*siginfoChild)(unsafe.Pointer(&info))
	return child, err == nil && child.pid != 0
}

// siginfoChild is siginfo_t of waitid(2) on 64-bit Linux.
type siginfoChild struct {
	signo, errno, code int32
	_                  int32
	pid                int32
	uid                uint32
	status             int32
}

// Values of si_code for SIGCHLD (sigaction(2)).
const (
	cldExited = 1
	cldDumped = 3
)

func (s siginfoChild) exit(at time.Time) Exit {
	if s.code == cldExited {
		return Exit{At: at, Code: int(s.status)}
	}
	return Exit{At: at, Code: -1, Signal: syscall.Signal(s.status), Core: s.code == cldDumped}
}

// groupLives reports whether a living process is in the group of a dead leader. Most
// are children of this process, orphaned by the leader's death. One with a living
// parent outside of the group must be searched for; if it lost its parent during the
// search, the second look for children finds it. The caller holds mu.
func (c *Children) groupLives(leader int, pids func() []int) bool {
	return hasLivingChild(unix.P_PGID, leader) || c.hasOrphans() && memberIn(leader, pids()) || hasLivingChild(unix.P_PGID, leader)
}

// hasOrphans reports whether this process may have a child that is no worker: such a parent
// outside of the group is one, or descends from one. It is asked first, as a list of all
// processes takes half a millisecond for each 200, and a successor waits for it.
func (c *Children) hasOrphans() bool {
	if !c.releasing.TryLock() { // a child that is reaped meanwhile may hide the next one in the file
		return true
	}
	defer c.releasing.Unlock()
	return slices.ContainsFunc(childrenOfMain(), func(pid int) bool { return c.workers[pid] == nil })
}

// memberIn checks each pid by system calls, which cost a tenth of reading /proc/PID/stat; so
// a /proc of another pid namespace does no harm.
func memberIn(leader int, pids []int) bool {
	for _, pid := range pids {
		if pid == leader {
			continue
		}
		if group, err := unix.Getpgid(pid); err == nil && group == leader && lives(pid) {
			return true
		}
	}
	return false
}

// lives reports whether any thread of a process runs; a zombie's pidfd is readable
// (pidfd_open(2)).
func lives(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return !HasEnded(fd)
}

// HasEnded reports whether all threads of the process behind a pidfd have ended,
// reaped or not. Where poll(2) fails they live: it does with a limit of no open files at all.
func HasEnded(pidfd int) bool {
	ready := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(ready, 0); err != unix.EINTR {
			return n > 0
		}
	}
}
