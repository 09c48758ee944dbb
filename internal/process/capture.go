package process

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

// capture has the kernel ask the master about bind(2) and listen(2) of the program and of
// all that it starts. A program whose calls can't be captured runs all the same. The
// listener goes with a report (SCM_RIGHTS). files is how many descriptors the child has,
// beside the socket for reports.
func (p *plan) capture(files uintptr) {
	flags, filter, errno := captureFlags()
	if errno != 0 {
		p.uncaptured = explainFilter(errno)
		return
	}
	held, err := capabilities()
	if err != nil || held[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 { // it must give up what setuid programs grant
		p.do(capturing, unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	}
	free := files + 3 // its own number is lower: the calls before have opened one at most
	if free == p.status {
		free++
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	p.do(capturing, unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, at(p, &program)).later = 3
	p.do(capturing, unix.SYS_DUP3, 0, free, unix.O_CLOEXEC).onLast = true
	said := report{call: uint32(len(p.calls))}
	control := unix.UnixRights(int(free))
	iov := unix.Iovec{Base: (*byte)(unsafe.Pointer(&said))}
	iov.SetLen(reportSize)
	message := unix.Msghdr{Iov: &iov, Control: &control[0]}
	message.SetIovlen(1)
	message.SetControllen(len(control))
	p.do(capturing, unix.SYS_SENDMSG, p.status, at(p, &message)) // without it bind(2) would fail with ENOSYS
}

// captureFlags finds what this kernel can do, without a filter (EFAULT).
func captureFlags() (flags uintptr, filter []unix.SockFilter, errno syscall.Errno) {
	if filter = captureFilter(); filter == nil {
		return 0, nil, unix.ENOSYS
	}
	flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	const killable = unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV // Linux 5.19
	if try := seccomp(flags | killable); try == unix.EFAULT {
		return flags | killable, filter, 0
	}
	if try := seccomp(flags); try != unix.EFAULT {
		return 0, nil, try
	}
	return flags, filter, 0
}

// seccomp is SECCOMP_SET_MODE_FILTER without a filter.
func seccomp(flags uintptr) syscall.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, 0)
	return errno
}

// captureFilter is the program that the kernel runs over struct seccomp_data
// (seccomp(2)). Calls of another architecture (i386; x32 has other numbers) pass. nil: forkd
// knows no architecture of this kind.
func captureFilter() []unix.SockFilter {
	const number, architecture = 0, 4 // offsets
	var native uint32
	switch runtime.GOARCH {
	case "amd64":
		native = unix.AUDIT_ARCH_X86_64
	case "arm64":
		native = unix.AUDIT_ARCH_AARCH64
	default:
		return nil
	}
	const load, equal, answer = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	return []unix.SockFilter{
		{Code: load, K: architecture},
		{Code: equal, K: native, Jf: 3},
		{Code: load, K: number},
		{Code: equal, K: unix.SYS_BIND, Jt: 2},
		{Code: equal, K: unix.SYS_LISTEN, Jt: 1},
		{Code: answer, K: unix.SECCOMP_RET_ALLOW},
		{Code: answer, K: unix.SECCOMP_RET_USER_NOTIF},
	}
}

// A result is what a child has told.
type result struct {
	listener int    // -1: none
	why      string // there is none
	failed   *call  // nil: the program runs
	errno    syscall.Errno
}

// readResult reads until the exec has closed the child's end.
func (p *plan) readResult(status *os.File) (r result, err error) {
	text, listener, err := receiveAll(status)
	r = result{listener: listener, why: p.uncaptured}
	for ; err == nil && len(text) >= reportSize; text = text[reportSize:] {
		said := (*report)(unsafe.Pointer(&text[0]))
		c := &p.calls[said.call]
		switch {
		case said.errno == 0 && listener < 0:
			err = errors.New("no descriptor is left for the listener of its calls: raise the limit on open files (LimitNOFILE= in a unit, ulimit -n)")
		case said.errno == 0:
		case c.later > 0:
			r.why = explainFilter(syscall.Errno(said.errno))
		default:
			r.failed, r.errno = c, syscall.Errno(said.errno)
		}
	}
	if err != nil || r.failed != nil {
		r.close()
	}
	return r, err
}

// close closes the listener, if there is one.
func (r *result) close() {
	if r.listener >= 0 {
		unix.Close(r.listener)
		r.listener = -1
	}
}

// receiveAll reads at most maxReports bytes and one descriptor, -1: none.
func receiveAll(from *os.File) (text []byte, descriptor int, err error) {
	raw, err := from.SyscallConn()
	if err != nil {
		return nil, -1, err
	}
	descriptor = -1
	part, control := make([]byte, maxReports), make([]byte, unix.CmsgSpace(4))
	for {
		var n, length int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, length, _, _, failed = unix.Recvmsg(int(fd), part[:maxReports-len(text)], control, unix.MSG_CMSG_CLOEXEC)
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err == nil && !errors.Is(failed, unix.EINTR) {
			err = failed
		}
		text = append(text, part[:max(n, 0)]...)
		for _, fd := range ipc.Descriptors(control[:length]) {
			if descriptor < 0 {
				descriptor = fd
			} else {
				unix.Close(fd)
			}
		}
		if err != nil || n == 0 || len(text) == maxReports {
			return text, descriptor, err
		}
	}
}

// explainFilter says why the kernel refused the filter (seccomp(2)).
func explainFilter(errno syscall.Errno) string {
	switch errno {
	case unix.EBUSY:
		return "another supervisor or container engine already answers this program's calls"
	case unix.ENOSYS, unix.EPERM:
		return "this kernel or the seccomp profile of a container forbids seccomp(2)"
	case unix.EINVAL:
		return "this kernel has no seccomp user notification: Linux 5.9 and later have it"
	default:
		return fmt.Sprintf("cannot set a seccomp filter: %v", errno)
	}
}
