package process

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

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

// exit converts the result of waitid.
func (s siginfoChild) exit(at time.Time) Exit {
	if s.code == cldExited {
		return Exit{At: at, Code: int(s.status)}
	}
	return Exit{At: at, Code: -1, Signal: syscall.Signal(s.status), Core: s.code == cldDumped}
}

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
	for {
		if n, err := unix.Poll(ready, 0); err != unix.EINTR {
			return n != 0 // an error is -1
		}
	}
}
