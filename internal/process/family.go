package process

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// listing is every pid that /proc shows, read once, when first asked for. It is
// only where to look: each pid is then asked about by system calls, which cost a
// tenth of reading /proc/PID/stat. A /proc of another pid namespace is thus
// useless, but harmless.
type listing struct {
	pids []int
	read bool
}

func (l *listing) all() []int {
	if !l.read {
		l.pids, l.read = readPIDs(), true
	}
	return l.pids
}

// PIDs returns every process that /proc shows.
func PIDs() []int { return readPIDs() }

func readPIDs() []int {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1) // what could be read counts
	pids := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// groupLives reports whether a living process is in the group of a dead leader.
// Most such are children of ours, orphaned by the leader's death. One that has a
// living parent in another group must be looked for; one that lost its parent
// during the search is a child of ours by its end.
func groupLives(leader int, l *listing) bool {
	return hasLivingChild(unix.P_PGID, leader) || strangerIn(leader, l.all()) || hasLivingChild(unix.P_PGID, leader)
}

func strangerIn(leader int, pids []int) bool {
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

// lives reports whether any thread of a process runs. A zombie does not: its
// pidfd is readable (pidfd_open(2)).
func lives(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return !hasEnded(fd)
}

// hasEnded reports whether all threads of the process behind a pidfd have ended,
// reaped or not.
func hasEnded(pidfd int) bool {
	ready := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	err := retry(func() error { _, err := unix.Poll(ready, 0); return err })
	return err != nil || ready[0].Revents != 0
}
