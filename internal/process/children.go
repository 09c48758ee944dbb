// Package process starts workers, signals them and reaps all children.
//
// A worker starts in two steps. One locked thread forks; the child drops what belongs to the
// master (descriptors, capabilities, user, signal state, OOM score) by system calls that
// the master has prepared, and executes the worker's program. One goroutine reaps: workers,
// and the foreign children that the master gets as subreaper or PID 1.
//
// The invariant: a worker is not reaped while another process of its group lives. So its
// pid, which is also the group's number, can't be reused while either may be signaled, and
// no left-over process is lost.
//
// A program that uses Children must not wait for processes by other means: os/exec's Wait
// would find its child reaped. When to start, whom to signal and what an exit means is
// decided by the caller.
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

	"github.com/forkd/forkd/internal/procfs"
)

// Children is all children of this process: workers and foreign children. There is
// one per program: two would reap each other's workers.
type Children struct {
	forks  chan func()   // to Serve
	served chan struct{} // closed when Serve has returned
	woken  chan struct{} // to the reaper: look again
	closed chan struct{} // to the reaper: end
	ended  chan struct{} // closed when the reaper has ended

	releases  sync.WaitGroup
	releasing sync.Mutex // one at a time
	// mu is held during each fork and each sweep, so that a sweep never takes a new
	// worker for a foreign child, and during each signal to a foreign child, so that it is
	// not reaped between the check and the kill.
	mu      sync.Mutex
	workers map[int]*Process // by pid, until reaped
	before  map[int]bool     // pids of children older than the master: not to be killed
	shared  bool             // orphans may come from others than workers
	orphans map[int]*Orphan  // by pid, until reaped
	fewer   chan struct{}    // holds one: an orphan was reaped
	calls   []func()         // callbacks for the reaper to run, in order
	relist  time.Time        // when a sweep may list all processes again
	records *Records         // nil: no worker is recorded
	noFile  unix.Rlimit      // the limit on open files, see originalNoFile

	// recording is read-locked while a record is written, so from a start's beginning until
	// its program runs, and locked while the records move.
	recording sync.RWMutex
}

// New makes this process the subreaper of its descendants (PR_SET_CHILD_SUBREAPER,
// kernel 3.4) and starts the reaper.
func New() *Children {
	c := &Children{
		forks:   make(chan func()),
		served:  make(chan struct{}),
		woken:   make(chan struct{}, 1),
		closed:  make(chan struct{}),
		ended:   make(chan struct{}),
		workers: map[int]*Process{},
		before:  map[int]bool{},
		orphans: map[int]*Orphan{},
		fewer:   make(chan struct{}, 1),
		noFile:  originalNoFile(),
	}
	// Every kernel with pidfds has it.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	for _, pid := range procfs.PIDs() { // of the program that has become the master by an exec
		if os.Getpid() != 1 && hasLivingChild(unix.P_PID, pid) {
			c.before[pid] = true
		}
	}
	c.shared = os.Getpid() == 1 || len(c.before) > 0
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	c.wake() // for children that ended before: of PID 1, or before an exec
	go c.reaper(died)
	return c
}

// Serve forks the workers for Start, until ctx is done. The master calls it once, on
// its main thread: a worker gets its parent-death signal when the thread that forked it
// ends (PR_SET_PDEATHSIG(2const)), so Serve locks its thread, and unlocks it alive.
func (c *Children) Serve(ctx context.Context) {
	defer close(c.served)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case fork := <-c.forks:
			fork()
		case <-ctx.Done():
			return
		}
	}
}

// Close ends the reaper: children that die later stay zombies. Call it after Serve has
// returned.
func (c *Children) Close() {
	close(c.closed)
	<-c.ended
	c.releases.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reapForeign() // those that died after the last worker
}

// Shared reports whether orphans may come from others than workers: this process is PID 1
// of a container, or had children when it became a master.
func (c *Children) Shared() bool { return c.shared }

// Adopted lists the living foreign children: processes that have lost their parent and
// are in no worker's group and no living worker's session.
func (c *Children) Adopted() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.adopted(procfs.PIDs())
}

// Leads reports whether pid is a worker's leader, alive or not yet reaped.
func (c *Children) Leads(pid int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.workers[pid] != nil
}

// OldestStart is when the oldest living worker was forked, in clock ticks after boot.
// No process of the workers is older. The greatest number if no worker lives.
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

// KillAdopted signals all foreign children and returns their number. When they die this
// process inherits their children: repeat until there are none.
func (c *Children) KillAdopted(sig syscall.Signal) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	pids := c.adopted(procfs.PIDs())
	for _, pid := range pids {
		// Only this process can reap it, and only with mu: the pid is still its own.
		_ = kill(pid, sig)
	}
	return len(pids)
}

// adopted picks the foreign children among some processes.
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

func (c *Children) wake() { poke(c.woken) }

// poke puts a token into a channel that holds one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
