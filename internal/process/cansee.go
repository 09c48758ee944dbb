package process

import (
	"os"

	"github.com/forkd/forkd/internal/procfs"
)

// CanSee says why this process can't see what processes of that user wait for, and what to
// do about it; "" if it can. hidepid hides only what ptrace's rules forbid.
func CanSee(uid int) string {
	if !procfs.IsOwn() {
		return "/proc does not show this process's pid namespace: mount it there"
	}
	if _, err := os.ReadFile("/proc/self/syscall"); err != nil { // CONFIG_HAVE_ARCH_TRACEHOOK
		return "/proc/PID/syscall can't be read on this kernel"
	}
	return procfs.NoAccess(uid)
}
