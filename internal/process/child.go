package process

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A call is a system call of a child between fork(2) and its program.
type call struct {
	doing  string // completes "cannot ..."
	number uintptr
	args   [6]uintptr
	onLast bool    // the first argument is the result of the call before
	want   uintptr // any other result is a failure (ESRCH); 0: none is

	// What follows a failure: unless quiet, it is reported. Then the child goes on so many
	// calls later, or ends (0).
	later int
	quiet bool
}

// A report is what a child tells of one of its calls: that it has failed, or that the
// descriptor sent along comes from it (errno 0).
type report struct{ call, errno uint32 }

const (
	reportSize = int(unsafe.Sizeof(report{}))
	maxReports = 2 * reportSize // of the filter, and of the call that has failed
)

// forkSelf forks this process, and returns its pid. The child makes the plan's calls and
// does not return. It has a copy of this memory and one thread, in the middle of whatever
// the others did: so it must not allocate, grow its stack, store a pointer, or take a lock,
// and every function that it calls is of this file and nosplit, or a bare system call. The
// caller has locked the thread and blocked all signals, whose handlers would be Go's.
//
// (As package syscall does it, but the memory is not shared, as there the parent waits for
// the exec, which a network file system can delay.)
//
//go:norace
//go:nosplit
func (p *plan) forkSelf() (pid int, errno syscall.Errno) {
	child, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, cloneFlags, 0, uintptr(unsafe.Pointer(&p.handle)), 0, 0, 0)
	if child == 0 && errno == 0 {
		p.become()
	}
	return int(child), errno
}

const cloneFlags = unix.CLONE_PIDFD | uintptr(unix.SIGCHLD)

// become makes this process, which has just been forked, the worker's program.
//
//go:norace
//go:nosplit
func (p *plan) become() {
	pid, _, _ := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
	for i := range p.pids {
		decimal(p.pids[i], pid)
	}
	if len(p.start) > 0 {
		file, _, _ := syscall.RawSyscall6(unix.SYS_OPENAT, cwd, p.statPath, unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, file, uintptr(unsafe.Pointer(&p.stat[0])), uintptr(len(p.stat)))
		if errno == 0 {
			startTime(p.stat[:n], p.start)
		}
	}
	last := uintptr(0)
	for i := 0; i < len(p.calls); i++ {
		c := &p.calls[i]
		if c.onLast {
			c.args[0] = last
		}
		result, _, errno := syscall.RawSyscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if errno == 0 && c.want != 0 && result != c.want {
			errno = unix.ESRCH
		}
		last = result
		if errno == 0 {
			continue
		}
		if !c.quiet {
			p.said.call, p.said.errno = uint32(i), uint32(errno)
			_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, p.status, uintptr(unsafe.Pointer(&p.said)), uintptr(reportSize))
		}
		if c.later == 0 {
			break
		}
		i += c.later - 1
	}
	for { // 127 is a shell's status for a command that it can't start
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// decimal writes the digits of n.
//
//go:norace
//go:nosplit
func decimal(to []byte, n uintptr) {
	last := 0
	for m := n; m >= 10; m /= 10 {
		last++
	}
	for ; last >= 0; last-- {
		to[last] = byte('0' + n%10)
		n /= 10
	}
}

// startTime copies the digits of field 22 of /proc/PID/stat, whose second field, in
// parentheses, may contain anything (proc_pid_stat(5)).
//
//go:norace
//go:nosplit
func startTime(stat, to []byte) {
	at := len(stat)
	for at > 0 && stat[at-1] != ')' {
		at--
	}
	for spaces := 0; at < len(stat) && spaces < 20; at++ {
		if stat[at] == ' ' {
			spaces++
		}
	}
	for n := 0; at < len(stat) && n < len(to) && stat[at] != ' '; n++ {
		to[n] = stat[at]
		at++
	}
}
