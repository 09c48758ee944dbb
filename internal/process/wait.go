package process

import (
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peekExit is how a child has ended; it stays unreaped. Not ended: while a tracer holds it,
// too.
func peekExit(pid int, now time.Time) (exit Exit, ended bool) {
	info, dead := waitid(unix.P_PID, pid, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT)
	return info.exit(now), dead
}

// isReapable reports whether pid is a dead child that no tracer holds.
func isReapable(pid int) bool {
	_, dead := peekExit(pid, time.Time{})
	return dead
}

// reap reaps a child, by pid (unix.P_PID) or pidfd (unix.P_PIDFD, kernel 5.4), if it is
// dead, and reports whether it was.
func reap(idType, id int) bool {
	_, dead := waitid(idType, id, unix.WEXITED|unix.WNOHANG)
	return dead
}

// hasLivingChild reports whether pid is a living child (unix.P_PID), or one is in a
// group (unix.P_PGID). The kernel returns ECHILD if nothing could satisfy the wait, and
// a dead child can't be stopped any more (wait_consider_task in kernel/exit.c).
func hasLivingChild(idType, id int) bool {
	var info unix.Siginfo
	err := retry(func() error {
		return unix.Waitid(idType, id, &info, unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT, nil)
	})
	return err == nil
}

func waitid(idType, id, options int) (siginfoChild, bool) {
	var info unix.Siginfo
	err := retry(func() error { return unix.Waitid(idType, id, &info, options, nil) })
	child := *(*siginfoChild)(unsafe.Pointer(&info))
	return child, err == nil && child.pid != 0
}

// retry repeats a call that a signal has interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
