package capture

import (
	"errors"
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notification is struct seccomp_notif.
type notification struct {
	ID    uint64
	TID   uint32
	Flags uint32
	// struct seccomp_data
	Number       int32
	Architecture uint32
	Instruction  uint64
	Args         [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	ID    uint64
	Value int64
	Error int32 // negative
	Flags uint32
}

// addition is struct seccomp_notif_addfd.
type addition struct {
	ID       uint64
	Flags    uint32
	Source   uint32
	New      uint32
	NewFlags uint32
}

// next waits for a notification. io.EOF: no process has the filter any more.
//
// Receiving does not block after POLLIN, although seccomp_unotify(2) warns of it: the
// kernel counts a notification when it comes, and takes it off the count only by a
// receive, not when its thread goes away (kernel/seccomp.c). Such a receive is ENOENT.
func (l *Listener) next() (*notification, error) {
	n := new(notification) // the kernel demands zeros
	var failed error
	err := l.raw.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, failed = unix.Poll(ready, 0)
		switch {
		case failed != nil:
		case ready[0].Revents&unix.POLLIN != 0:
			failed = control(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(n))
		case ready[0].Revents != 0:
			failed = io.EOF
		default:
			return false
		}
		return true
	})
	return n, errors.Join(err, failed)
}

// valid reports whether the call still waits. Then all that was read of its thread since
// next was read of that thread, and not of another one with its number.
func (l *Listener) valid(n *notification) bool {
	id := n.ID
	return l.ioctl(unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == nil
}

func (l *Listener) pass(n *notification) {
	l.respond(response{ID: n.ID, Flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE})
}

// send ends the call with an error; 0: with success.
func (l *Listener) send(n *notification, errno syscall.Errno) {
	l.respond(response{ID: n.ID, Error: -int32(errno)})
}

// respond fails where nobody waits for the answer any more.
func (l *Listener) respond(r response) {
	_ = l.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r))
}

// put replaces a descriptor of the process. The flag that answers the call as well would
// answer with the descriptor's number.
func (l *Listener) put(n *notification, fd, in int, closeOnExec bool) error {
	a := addition{ID: n.ID, Flags: unix.SECCOMP_ADDFD_FLAG_SETFD, Source: uint32(fd), New: uint32(in)}
	if closeOnExec {
		a.NewFlags = unix.O_CLOEXEC
	}
	return l.ioctl(unix.SECCOMP_IOCTL_NOTIF_ADDFD, unsafe.Pointer(&a))
}

func (l *Listener) ioctl(request uintptr, argument unsafe.Pointer) error {
	var failed error
	err := l.raw.Control(func(fd uintptr) { failed = control(fd, request, argument) })
	return errors.Join(err, failed)
}

func control(fd, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
