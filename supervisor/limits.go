package supervisor

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/cgroup"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/systemd"
)

// maxStarting is how many workers start at once: until its program runs, each blocks a
// thread of the master's.
const maxStarting = 4

// perWorker is the number of descriptors that the master has for one worker, without
// the slot's sockets: pidfd, notify socket, channel, page, two outputs, seccomp listener.
// ownFiles is the number for the master itself.
const (
	perWorker = 7
	ownFiles  = 32
)

// agentTasks is how many threads the fleet agent has.
const agentTasks = 12

// checkLimits refuses an app that could not be rolled for want of descriptors or
// processes, or whose own limits can't be set. running is how many workers there are already.
func checkLimits(cfg Config, slots, running int) error {
	if err := checkDescriptors(cfg, 0, slots); err != nil {
		return err
	}
	if err := process.CheckNoFile(cfg.Limits.NoFile); err != nil {
		return err
	}
	return checkProcesses(cfg, slots, running)
}

func (l Limits) grouped() bool { return l.MemoryMax > 0 || l.TasksMax > 0 }

// divide gets the master a control group beside which its workers' can be made, where the
// configuration wants that and it has none yet. At a reload this fails where the workers
// that there are share the master's.
func (e *executor) divide(l Limits) (err error) {
	if !l.grouped() || e.leaves != nil {
		return nil
	}
	if e.leaves, err = cgroup.NewLeaves("/", systemd.Subgroup); err != nil {
		return fmt.Errorf("cannot set limits.memory_max or limits.tasks_max: %w", err)
	}
	e.emptying = append(e.emptying, e.leaves.Old...)
	return nil
}

// outOfMemory says that the kernel has killed a worker for want of memory; "": it has not.
func (e *executor) outOfMemory(w *worker, now time.Time) string {
	const words = "killed by the OOM killer"
	if w.leaf == nil {
		if e.oom.Took(now) {
			return words
		}
		return ""
	}
	switch killed, own := w.leaf.OutOfMemory(); {
	case killed && own:
		return fmt.Sprintf("%s: it wanted more than limits.memory_max, %d bytes", words, w.cfg.Limits.MemoryMax)
	case killed:
		return words
	}
	return ""
}

// removeLeaves removes the control groups of workers that are gone. One with a process that
// a worker has left stays until that has ended.
func (e *executor) removeLeaves() {
	e.emptying = slices.DeleteFunc(e.emptying, func(l *cgroup.Leaf) bool { return l.Remove() == nil })
}

// checkDescriptors checks the limit on open files: a roll needs descriptors for up to
// twice the workers.
func checkDescriptors(cfg Config, learned, slots int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("cannot read the limit on open files: %w", err)
	}
	need := uint64(slots*(len(cfg.Listeners)+learned+2*perWorker) + ownFiles)
	if limit.Cur < need {
		return fmt.Errorf("cannot run %d workers with %d open files: raise the limit to at least %d (ulimit -n, LimitNOFILE= in a unit)", slots, limit.Cur, need)
	}
	return nil
}

// checkSlots reports why the configuration does not allow this number of slots: there
// is a limit, or they can't share the host's connections.
func checkSlots(cfg Config, slots int) error {
	if most := cfg.WorkersMax; most > 0 && slots > most {
		return fmt.Errorf("%d workers are more than workers_max (%d): raise it and reload, or scale to fewer", slots, most)
	}
	if mask := cfg.MarkMask; mask != 0 && slots > MarkedSlots(mask) {
		return fmt.Errorf("%d workers are more than the bits of count.mark_mask tell apart (%d): add some and reload, or scale to fewer", slots, MarkedSlots(mask))
	}
	if most := cfg.Redis.MaxConnections; most > 0 && int64(slots) > most {
		return fmt.Errorf("cannot share %d connections out among %d workers: raise redis.max_connections_per_host, and reload", most, slots)
	}
	return nil
}

// startFailure is why a worker was not started, with the remedy if descriptors have
// run out.
func startFailure(err error) string {
	switch {
	case errors.Is(err, unix.EMFILE):
		return err.Error() + ": raise the master's limit (ulimit -n, LimitNOFILE= in a unit)"
	case errors.Is(err, unix.ENFILE):
		return err.Error() + ": raise the system's limit (sysctl fs.file-max)"
	}
	return err.Error()
}

// checkProcesses checks the limits on processes: a roll needs up to twice the workers,
// each with at least one thread.
func checkProcesses(cfg Config, slots, running int) error {
	workers := max(0, 2*slots-running)
	master := max(0, process.Tasks-process.Threads())
	if cfg.Redis.URL != "" && running == 0 {
		master += agentTasks
	}
	check := func(need int, room process.Room) error {
		if need <= room.Free {
			return nil
		}
		return fmt.Errorf("cannot run %d workers: %d more processes and threads may be needed, and %s (%d) leaves %d: raise it to at least %d (TasksMax= or LimitNPROC= in a unit, ulimit -u)",
			slots, need, room.Of, room.Limit, max(0, room.Free), room.Limit-room.Free+need)
	}
	if err := check(master+workers, process.GroupRoom("/")); err != nil {
		return err
	}
	own, user := uint32(os.Geteuid()), uint32(cfg.User.uid())
	if user == own {
		return check(master+workers, process.UserRoom(own))
	}
	if err := check(master, process.UserRoom(own)); err != nil {
		return err
	}
	return check(workers, process.UserRoom(user))
}
