package supervisor

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/process"
)

// maxStarting is how many workers are started at once: each is a launcher with
// threads of its own until its program runs, and blocks one of the master's.
const maxStarting = 4

// checkLimits refuses an app that could not be rolled for want of descriptors or
// of processes. So many processes of workers are there already.
func checkLimits(cfg Config, slots, running int) error {
	if err := checkDescriptors(cfg, slots); err != nil {
		return err
	}
	return checkProcesses(cfg, slots, running)
}

// startFailure is why a worker was not started, and what to do where descriptors
// have run out.
func startFailure(err error) string {
	switch {
	case errors.Is(err, unix.EMFILE):
		return err.Error() + ": raise the master's limit (ulimit -n, LimitNOFILE= in a unit)"
	case errors.Is(err, unix.ENFILE):
		return err.Error() + ": raise the system's limit (sysctl fs.file-max)"
	}
	return err.Error()
}

// checkProcesses refuses an app that could not be rolled for want of processes: a
// roll needs up to twice the workers, each of one thread at least.
func checkProcesses(cfg Config, slots, running int) error {
	workers := max(0, 2*slots-running)
	master := max(0, process.Tasks-process.Threads()) + maxStarting*process.ShimTasks
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
	own := uint32(os.Geteuid())
	user := own
	if cfg.User != nil {
		user = cfg.User.UID
	}
	if user == own {
		return check(master+workers, process.UserRoom(own))
	}
	if err := check(master, process.UserRoom(own)); err != nil {
		return err
	}
	return check(workers, process.UserRoom(user))
}
