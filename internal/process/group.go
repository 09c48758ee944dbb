package process

import "golang.org/x/sys/unix"

// groupLives reports whether a living process is in the group of a dead leader. Most
// are children of this process, orphaned by the leader's death. One with a living
// parent outside of the group must be searched for; if it lost its parent during the
// search, the second look for children finds it.
func groupLives(leader int, pids func() []int) bool {
	return hasLivingChild(unix.P_PGID, leader) || memberIn(leader, pids()) || hasLivingChild(unix.P_PGID, leader)
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
// reaped or not.
func HasEnded(pidfd int) bool {
	ready := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	err := retry(func() error { _, err := unix.Poll(ready, 0); return err })
	return err != nil || ready[0].Revents != 0
}
