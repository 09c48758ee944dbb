package procfs

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// NoAccess says why this process may not read the memory and descriptors of processes of
// that user, nor what they wait for, and what to grant; "": it may.
func NoAccess(uid int) string {
	scope, _ := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope") // without yama there is none
	return AccessRule(uid, os.Geteuid(), Holds(unix.CAP_SYS_PTRACE), strings.TrimSpace(string(scope)))
}

// AccessRule says why a process of one user, with CAP_SYS_PTRACE if all is set, may not
// read those of another (ptrace(2), "Ptrace access mode checking"). scope is that of yama
// (Documentation/admin-guide/LSM/Yama.rst).
func AccessRule(of, by int, all bool, scope string) string {
	const grant = "grant it (docker run --cap-add SYS_PTRACE; CapabilityBoundingSet= and AmbientCapabilities= of a unit)"
	switch {
	case scope == "3":
		return "kernel.yama.ptrace_scope is 3, until the next boot: set it to 1 in /etc/sysctl.d and restart the machine"
	case all:
		return ""
	case scope == "2":
		return "kernel.yama.ptrace_scope is 2, so that CAP_SYS_PTRACE is needed: " + grant + ", or set it to 1"
	case of != by:
		return fmt.Sprintf("the calls of another user's workers (uid %d) are read with CAP_SYS_PTRACE: %s, or run them as uid %d", of, grant, by)
	}
	return ""
}

// Holds reports whether this thread has a capability in effect (capabilities(7)).
func Holds(capability int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var held [2]unix.CapUserData
	return unix.Capget(&header, &held[0]) == nil && held[capability/32].Effective&(1<<(capability%32)) != 0
}
