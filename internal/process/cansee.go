package process

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// CanSee says why this process can't see what processes of that user wait for, and what to
// do about it; "" if it can. The rules are ptrace(2)'s and those of Yama
// (Documentation/admin-guide/LSM/Yama.rst). hidepid hides only what they forbid.
func CanSee(uid int) string {
	scope, _ := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope") // no file: no Yama
	held, err := capabilities()
	capable := err == nil && held[0].Effective&(1<<unix.CAP_SYS_PTRACE) != 0
	return cannotSee(strings.TrimSpace(string(scope)), capable, uid == os.Geteuid(), procfs.IsOwn(), hasSyscallFile())
}

// hasSyscallFile reports whether this kernel has /proc/PID/syscall (CONFIG_HAVE_ARCH_TRACEHOOK).
func hasSyscallFile() bool {
	_, err := os.ReadFile("/proc/self/syscall")
	return err == nil
}

func cannotSee(yama string, capable, sameUser, own, hasFile bool) string {
	switch {
	case !own:
		return "/proc does not show this process's pid namespace: mount it there"
	case !hasFile:
		return "/proc/PID/syscall can't be read on this kernel"
	case yama == "3":
		return "kernel.yama.ptrace_scope is 3: no process may look into another until the next boot"
	case capable:
		return ""
	case !sameUser:
		return "the workers have another user, and CAP_SYS_PTRACE is missing: grant it (AmbientCapabilities= in a systemd unit, --cap-add SYS_PTRACE in Docker), or run both as one user"
	case yama == "2":
		return "kernel.yama.ptrace_scope is 2: set it to 1, or grant CAP_SYS_PTRACE (AmbientCapabilities= in a systemd unit, --cap-add SYS_PTRACE in Docker)"
	}
	return ""
}
