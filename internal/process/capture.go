package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the shim writes before the exec if Spec.Capture is set: filterSet goes with the
// listener (SCM_RIGHTS), filterFailed is followed by the errno and a line feed.
const (
	filterSet    = '+'
	filterFailed = '-'
)

// capture has the kernel ask the master about bind(2) and listen(2) of the program and of
// all that it starts. A program whose calls can't be captured runs all the same.
func capture(p *plan) error {
	if !p.Capture {
		return nil
	}
	status := len(p.Files) + planStatus
	listener, err := setFilter()
	if err != nil {
		errno := unix.EIO
		errors.As(err, &errno)
		_, err = unix.Write(status, fmt.Appendf(nil, "%c%d\n", filterFailed, int(errno)))
		return err
	}
	return unix.Sendmsg(status, []byte{filterSet}, unix.UnixRights(listener), nil, 0) // without it bind(2) would fail with ENOSYS
}

// setFilter sets the filter on this thread, from which an exec keeps it. A thread without
// CAP_SYS_ADMIN must give up what setuid programs grant (PR_SET_NO_NEW_PRIVS).
func setFilter() (listener int, err error) {
	filter, err := captureFilter()
	if err != nil {
		return -1, err
	}
	flags := unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	for limited := false; ; {
		listener, err = seccomp(flags, filter)
		switch {
		case errors.Is(err, unix.EINVAL) && flags&unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0: // before Linux 5.19
			flags &^= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		case errors.Is(err, unix.EACCES) && !limited:
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				return -1, err
			}
			limited = true
		default:
			return listener, err
		}
	}
}

func seccomp(flags int, filter []unix.SockFilter) (listener int, err error) {
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// captureFilter is the program that the kernel runs over struct seccomp_data
// (seccomp(2)). Calls of another architecture (i386; x32 has other numbers) pass. ENOSYS:
// forkd knows no architecture of this kind.
func captureFilter() ([]unix.SockFilter, error) {
	const number, architecture = 0, 4 // offsets
	var native uint32
	switch runtime.GOARCH {
	case "amd64":
		native = unix.AUDIT_ARCH_X86_64
	case "arm64":
		native = unix.AUDIT_ARCH_AARCH64
	default:
		return nil, unix.ENOSYS
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
	}, nil
}

// report is what a shim has told.
type report struct {
	listener int    // -1: none
	why      string // there is none
	text     string // of a failure; "": the program runs
}

// readReport reads until the exec has closed the shim's end.
func readReport(status *os.File) (r report, err error) {
	text, listener, err := receiveAll(status)
	r.listener = listener
	switch {
	case err != nil:
	case len(text) > 0 && text[0] == filterSet:
		text = text[1:]
		if listener < 0 {
			err = errors.New("no descriptor is left for the listener of its calls: raise the limit on open files (LimitNOFILE= in a unit, ulimit -n)")
		}
	case len(text) > 0 && text[0] == filterFailed:
		number, rest, _ := bytes.Cut(text[1:], []byte{'\n'})
		n, _ := strconv.Atoi(string(number))
		r.why, text = explainFilter(syscall.Errno(n)), rest
	}
	r.text = string(text)
	if err != nil {
		r.close()
	}
	return r, err
}

// close closes the listener, if there is one.
func (r *report) close() {
	if r.listener >= 0 {
		unix.Close(r.listener)
		r.listener = -1
	}
}

// receiveAll reads at most maxStatus bytes and one descriptor, -1: none.
func receiveAll(from *os.File) (text []byte, descriptor int, err error) {
	raw, err := from.SyscallConn()
	if err != nil {
		return nil, -1, err
	}
	descriptor = -1
	part, control := make([]byte, maxStatus), make([]byte, unix.CmsgSpace(4))
	for {
		var n, length int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, length, _, _, failed = unix.Recvmsg(int(fd), part[:maxStatus-len(text)], control, unix.MSG_CMSG_CLOEXEC)
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err == nil && !errors.Is(failed, unix.EINTR) {
			err = failed
		}
		text = append(text, part[:max(n, 0)]...)
		for _, fd := range rights(control[:length]) {
			if descriptor < 0 {
				descriptor = fd
			} else {
				unix.Close(fd)
			}
		}
		if err != nil || n == 0 || len(text) == maxStatus {
			return text, descriptor, err
		}
	}
}

// rights returns the descriptors of a message.
func rights(control []byte) (fds []int) {
	messages, _ := unix.ParseSocketControlMessage(control) // none is an error
	for i := range messages {
		some, _ := unix.ParseUnixRights(&messages[i])
		fds = append(fds, some...)
	}
	return fds
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
