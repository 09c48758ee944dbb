package supervisor

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/process"
)

// maxAncestors bounds the way up from a process to its worker.
const maxAncestors = 64

// ofWorker reports whether a process may speak for a worker, which is known by
// its pid and not reaped yet: one of the worker's session or a descendant of the
// worker's. leads says which processes are workers. It is asked after the uid has
// been found right, and keeps apart what trusts each other: another worker that
// writes to the wrong socket, a program that has inherited somebody's
// NOTIFY_SOCKET.
//
// So what can't be known counts: a helper that is gone already, as systemd-notify
// usually is, one in another pid namespace (pid 0), an orphan that has left its
// worker's session. Nor does it matter that the pid of a helper may be somebody
// else's by now.
func ofWorker(pid, worker int, leads func(pid int) bool) bool {
	if pid <= 0 {
		return true
	}
	for range maxAncestors {
		session, err := unix.Getsid(pid)
		switch {
		case err != nil || session == worker:
			return true
		case leads(session):
			return false
		}
		parent, known := process.Parent(pid)
		switch {
		case !known || parent == os.Getpid():
			return true
		case parent <= 1:
			return false
		}
		pid = parent
	}
	return false
}
