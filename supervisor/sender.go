package supervisor

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/process"
)

// maxAncestors bounds the way up from a process to its worker.
const maxAncestors = 64

// ofWorker reports whether a process may speak for a worker, which is known by
// its pid and not reaped yet: one of the worker's group or a descendant of the
// worker's. It is asked after the uid has been found right, and keeps apart what
// trusts each other: another worker that writes to the wrong socket, a program
// that has inherited somebody's NOTIFY_SOCKET.
//
// So what can't be known counts: a helper that is gone already, as systemd-notify
// usually is, one in another pid namespace (pid 0), an orphan that lives in a
// session of its own and so has left its worker's group. Nor does it matter that
// the pid of a helper may be somebody else's by now.
func ofWorker(pid, worker int) bool {
	if pid <= 0 {
		return true
	}
	for range maxAncestors {
		group, err := unix.Getpgid(pid)
		switch {
		case err != nil || pid == worker || group == worker:
			return true
		case isChild(group) || isChild(pid):
			// Workers lead groups in the master's own session.
			return !inOurSession(pid)
		}
		parent, known := process.Parent(pid)
		if !known {
			return true
		}
		if parent <= 1 {
			return false
		}
		pid = parent
	}
	return false
}

// isChild reports whether a process is a child of this one: its worker, or an
// orphan that it was given. It reaps nothing (WNOWAIT, waitid(2)).
func isChild(pid int) bool {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

func inOurSession(pid int) bool {
	own, err := unix.Getsid(0)
	if err != nil {
		return false
	}
	session, err := unix.Getsid(pid)
	return err == nil && session == own
}
