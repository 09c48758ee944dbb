package process

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/cgroup"
)

// Room is how many processes and threads a limit leaves, and the limit.
type Room struct {
	Free, Limit int
	Of          string // for a person: the file or the user that it is of
}

// unlimited is the Room where nothing limits.
func unlimited() Room { return Room{Free: math.MaxInt, Limit: math.MaxInt} }

// GroupRoom is the least that pids.max leaves in a control group of this process
// or in one above it. root is "/", but in tests.
func GroupRoom(root string) Room {
	least := unlimited()
	for _, g := range cgroup.Own(root, "pids") {
		file := filepath.Join(g.Dir, "pids.max")
		limit, err := readNumber(file) // of "max", too
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

// UserRoom is what RLIMIT_NPROC leaves a user, as far as their processes can be
// seen here (getrlimit(2)). It binds no root, and of others none who is
// privileged, but at an exec behind a change of user.
func UserRoom(uid uint32) Room {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &limit); err != nil || limit.Cur > math.MaxInt32 || uid == 0 {
		return unlimited()
	}
	if int(uid) == unix.Geteuid() && mayExceed() {
		return unlimited()
	}
	used := 0
	for _, pid := range readPIDs() {
		var tasks unix.Stat_t // a directory for each thread, and two links as every directory has
		if unix.Stat("/proc/"+strconv.Itoa(pid)+"/task", &tasks) == nil && tasks.Uid == uid {
			used += int(tasks.Nlink) - 2
		}
	}
	return Room{Free: int(limit.Cur) - used, Limit: int(limit.Cur), Of: "the limit on processes of uid " + strconv.Itoa(int(uid))}
}

// mayExceed reports whether this process is beyond RLIMIT_NPROC
// (CAP_SYS_RESOURCE, CAP_SYS_ADMIN, capabilities(7)).
func mayExceed() bool {
	held, err := capabilities()
	return err == nil && held[0].Effective&(1<<unix.CAP_SYS_RESOURCE|1<<unix.CAP_SYS_ADMIN) != 0
}

// Threads is how many this process has now.
func Threads() int {
	var tasks unix.Stat_t
	if err := unix.Stat("/proc/self/task", &tasks); err != nil {
		return 0
	}
	return int(tasks.Nlink) - 2
}
