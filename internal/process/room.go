package process

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/cgroup"
	"github.com/forkd/forkd/internal/procfs"
)

// Room is a limit on processes and threads, and how many of them are free.
type Room struct {
	Free, Limit int
	Of          string // in words: the file or the user of the limit
}

// unlimited is the Room without a limit.
func unlimited() Room { return Room{Free: math.MaxInt, Limit: math.MaxInt} }

// GroupRoom is the least Room by pids.max of this process's control groups and those
// above. root is "/", except in tests.
func GroupRoom(root string) Room {
	least := unlimited()
	for _, g := range cgroup.Own(root, "pids") {
		file := filepath.Join(g.Dir, "pids.max")
		limit, err := readNumber(file) // an error for "max", too
		if err != nil {
			continue
		}
		used, err := readNumber(filepath.Join(g.Dir, "pids.current"))
		if err == nil && limit-used < least.Free {
			least = Room{Free: limit - used, Limit: limit, Of: file}
		}
	}
	return least
}

func readNumber(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// UserRoom is a user's Room by RLIMIT_NPROC (getrlimit(2)), counting the processes that
// /proc shows. The limit does not apply to root, nor to a process with these capabilities, except at
// an exec after a change of user.
func UserRoom(uid uint32) Room {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &limit); err != nil || limit.Cur > math.MaxInt32 || uid == 0 {
		return unlimited()
	}
	if int(uid) == unix.Geteuid() && (procfs.Holds(unix.CAP_SYS_RESOURCE) || procfs.Holds(unix.CAP_SYS_ADMIN)) {
		return unlimited()
	}
	used := 0
	for _, pid := range procfs.PIDs() {
		if n, owner := tasks(strconv.Itoa(pid)); owner == uid {
			used += n
		}
	}
	return Room{Free: int(limit.Cur) - used, Limit: int(limit.Cur), Of: "the limit on processes of uid " + strconv.Itoa(int(uid))}
}

// CheckNoFile says why a worker can't have RLIMIT_NOFILE n: only CAP_SYS_RESOURCE may raise
// the hard limit, to fs.nr_open at most (getrlimit(2)).
func CheckNoFile(n int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("cannot read the limit on open files: %w", err)
	}
	if most, err := readNumber("/proc/sys/fs/nr_open"); err == nil && n > most {
		return fmt.Errorf("cannot let a worker have %d open files: the system allows %d: raise it (sysctl -w fs.nr_open=%d)", n, most, n)
	}
	if uint64(n) > limit.Max && !procfs.Holds(unix.CAP_SYS_RESOURCE) {
		return fmt.Errorf("cannot let a worker have %d open files: the master's hard limit is %d: raise it to %d (LimitNOFILE= in a unit, ulimit -Hn)", n, limit.Max, n)
	}
	return nil
}

// Threads is the number of this process's threads.
func Threads() int {
	n, _ := tasks("self")
	return n
}

// tasks counts the threads of a process, and returns its user.
func tasks(pid string) (n int, uid uint32) {
	var tasks unix.Stat_t // a directory for each thread, and two more links
	if unix.Stat("/proc/"+pid+"/task", &tasks) != nil {
		return 0, 0
	}
	return int(tasks.Nlink) - 2, tasks.Uid
}
