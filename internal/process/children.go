package process

import (
	"context"
	"math"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Children is every child of this process, the workers and the strangers. There
// is one per program: two would reap each other's workers.
type Children struct {
	forks  chan fork     // to Serve
	served chan struct{} // closed when Serve has returned
	woken  chan struct{} // to the reaper: look again
	closed chan struct{} // to the reaper: end
	ended  chan struct{} // closed when the reaper has ended

	burials sync.WaitGroup
	burying sync.Mutex // one at a time
	// mu is held over each fork and each sweep, so that a sweep never takes a
	// worker that is being born for a stranger, and over each signal, so that
	// nobody is reaped between the check and the kill.
	mu      sync.Mutex
	workers map[int]*Process // by pid, until reaped
	before  map[int]bool     // children by pid, from before this was a master: not its to end
	shared  bool             // orphans may come from others than workers
	orphans map[int]*Orphan  // by pid, until reaped
	fewer   chan struct{}    // holds one: an orphan was reaped
	calls   []func()         // what the reaper has to tell, in order
	relist  time.Time        // when a sweep may look through all processes again
	records *Records         // nil: nothing is recorded
	listed  *os.File         // the main thread's children; nil: not to be had
}

// New makes this process the one that its orphaned descendants fall to
// (PR_SET_CHILD_SUBREAPER, kernel 3.4) and starts the reaper.
func New() *Children {
	c := &Children{
		forks:   make(chan fork),
		served:  make(chan struct{}),
		woken:   make(chan struct{}, 1),
		closed:  make(chan struct{}),
		ended:   make(chan struct{}),
		workers: map[int]*Process{},
		orphans: map[int]*Orphan{},
		fewer:   make(chan struct{}, 1),
		listed:  openChildren(),
	}
	// Every kernel that has pidfds, without which nothing starts, has it.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	if os.Getpid() != 1 {
		c.before = childrenNow()
	}
	c.shared = os.Getpid() == 1 || len(c.before) > 0
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	c.wake() // what ended before: as PID 1, or after an exec
	go c.reaper(died)
	return c
}

// Serve forks the workers that Start asks for, until ctx is done. The master
// calls it once, on its main thread: a worker's parent-death signal comes when
// the thread that forked it ends (PR_SET_PDEATHSIG(2const)), so Serve keeps its
// thread to itself, and gives it back alive.
func (c *Children) Serve(ctx context.Context) {
	defer close(c.served)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case f := <-c.forks:
			f.done <- c.fork(f)
		case <-ctx.Done():
			return
		}
	}
}

// Close ends the reaper: what dies from now on stays a zombie. Call it when
// nothing is watched any more, after Serve has returned.
func (c *Children) Close() {
	close(c.closed)
	<-c.ended
	c.burials.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweepStrangers()   // those that died behind the last worker
	_ = c.listed.Close() // there may be none
}

// Shared reports whether orphans fall to this process that no worker has left: it
// is PID 1 of a container, or had children when it became a master.
func (c *Children) Shared() bool { return c.shared }

// Adopted lists the strangers that live as children of this process: what left
// its worker's group and lost its parent. Whoever is in a worker's group, or in a
// living one's session, is that worker's affair.
func (c *Children) Adopted() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.adopted(readPIDs())
}

// Leads reports whether pid is a worker's leader, alive or not yet reaped.
func (c *Children) Leads(pid int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.workers[pid] != nil
}

// OldestStart is when the first of the workers that live was forked, those that are
// being started among them, in clock ticks after boot. None of their processes is
// older. The greatest number where there is none.
func (c *Children) OldestStart() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	oldest := uint64(math.MaxUint64)
	for _, p := range c.workers {
		if p.exit == nil {
			oldest = min(oldest, p.start)
		}
	}
	return oldest
}

// KillAdopted signals every stranger there is and returns how many there were.
// Their own children fall to this process when they die: repeat until none.
func (c *Children) KillAdopted(sig syscall.Signal) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	pids := c.adopted(readPIDs())
	for _, pid := range pids {
		// Only this process can reap it, and not while mu is held: the pid is
		// still its own. One that ended meanwhile does not mind.
		_ = kill(pid, sig)
	}
	return len(pids)
}

// childrenNow lists what this process, or the program that became it by an exec,
// has started.
func childrenNow() map[int]bool {
	children := map[int]bool{}
	for _, pid := range readPIDs() {
		if hasLivingChild(unix.P_PID, pid) {
			children[pid] = true
		}
	}
	return children
}

// adopted picks the strangers among some processes.
func (c *Children) adopted(among []int) (pids []int) {
	for _, pid := range among {
		if c.workers[pid] != nil || c.before[pid] || !hasLivingChild(unix.P_PID, pid) {
			continue
		}
		group, err := unix.Getpgid(pid)
		if err != nil || c.workers[group] != nil {
			continue
		}
		session, err := unix.Getsid(pid)
		if p := c.workers[session]; err == nil && (p == nil || p.exit != nil) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// wake makes the reaper look again, soon.
func (c *Children) wake() {
	select {
	case c.woken <- struct{}{}:
	default: // it will look anyhow
	}
}
