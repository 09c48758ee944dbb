package workerlink

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/process"
)

// maxAncestors bounds the way up from a process to its worker.
const maxAncestors = 64

// ofWorker reports whether a process may speak for a worker, which is not reaped
// yet: it is of the worker's session or a descendant. leads says which processes
// are workers.
//
// The uid has been checked already. This keeps apart processes that trust each
// other: another worker that writes to the wrong socket, a program that inherited
// NOTIFY_SOCKET. So what can't be known counts: a helper that is gone already, as
// systemd-notify usually is, one in another pid namespace (pid 0), an orphan that
// has left its worker's session.
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
