package process

import (
	"os"

	"github.com/forkd/forkd/internal/procfs"
)

// CanSee says why this process can't see what processes of that user wait for, and what to
// do about it; "" if it can. hidepid hides only what ptrace's rules forbid.
func CanSee(uid int) string {
	return cannotSee(procfs.NoAccess(uid), procfs.IsOwn(), hasSyscallFile())
}

// hasSyscallFile reports whether this kernel has /proc/PID/syscall (CONFIG_HAVE_ARCH_TRACEHOOK).
func hasSyscallFile() bool {
	_, err := os.ReadFile("/proc/self/syscall")
	return err == nil
}

func cannotSee(noAccess string, own, hasFile bool) string {
	switch {
	case !own:
		return "/proc does not show this process's pid namespace: mount it there"
	case !hasFile:
		return "/proc/PID/syscall can't be read on this kernel"
	}
	return noAccess
}
