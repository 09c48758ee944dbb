package capture

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// Forbidden says why this process can't capture the calls of workers of that user, and
// what to grant; "": it can. It sees neither what other filters forbid by argument nor
// what another listener takes: of that process.Process.Capture tells.
func Forbidden(uid int) string {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return "forkd captures calls on amd64 and arm64 only"
	}
	if !procfs.IsOwn() {
		return "/proc shows another pid namespace: mount -t proc proc /proc"
	}
	if why := noNotification(); why != "" {
		return why
	}
	if why := noCopies(); why != "" {
		return why
	}
	return procfs.NoAccess(uid)
}

// noNotification says why there is no user notification. A kernel that can start workers
// (close_range(2) with CLOSE_RANGE_CLOEXEC, Linux 5.11) has SECCOMP_ADDFD_FLAG_SETFD.
func noNotification() string {
	action := uint32(unix.SECCOMP_RET_USER_NOTIF)
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	switch errno {
	case 0:
		return ""
	case unix.EOPNOTSUPP, unix.EINVAL:
		return "this kernel has no seccomp user notification"
	default:
		return fmt.Sprintf("seccomp(2) fails (%v): %s", errno, profile)
	}
}

// profile is what to grant where a call fails that any process may make of itself.
const profile = "allow seccomp, pidfd_open, pidfd_getfd and process_vm_readv in the seccomp profile of the container (docker run --cap-add SYS_PTRACE does) or SystemCallFilter= of the unit"

// noCopies tries on this process what look does with others.
func noCopies() string {
	self := os.Getpid()
	pidfd, err := unix.PidfdOpen(self, 0)
	if err != nil {
		return fmt.Sprintf("pidfd_open(2) fails (%v): %s", err, profile)
	}
	defer unix.Close(pidfd)
	socket, err := unix.PidfdGetfd(pidfd, pidfd, 0)
	if err != nil {
		return fmt.Sprintf("pidfd_getfd(2) fails (%v): %s", err, profile)
	}
	unix.Close(socket)
	var from, to byte
	local := []unix.Iovec{{Base: &to, Len: 1}}
	remote := []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&from)), Len: 1}}
	if _, err := unix.ProcessVMReadv(self, local, remote, 0); err != nil && !errors.Is(err, unix.EFAULT) {
		return fmt.Sprintf("process_vm_readv(2) fails (%v): %s", err, profile)
	}
	runtime.KeepAlive(&from)
	return ""
}
