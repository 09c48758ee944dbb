package process

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a worker: the leader of its own session and process group, made by
// Children.Start. Children.mu guards its fields, signaling too exit and over.
type Process struct {
	children *Children
	pid      int
	start    uint64 // clock ticks after boot; slightly before the fork
	handle   int    // pidfd; closed when reaped
	line     int    // of the records

	listener   int    // of its calls, see Capture; -1: none
	uncaptured string // why there is none

	// signaling is held during each signal, so that the process is not reaped between the
	// check and the kill. Children.mu may be held for as long as a fork takes.
	signaling sync.Mutex

	exit      *Exit         // nil while it runs
	over      bool          // the group is empty and must not be signaled any more
	abandoned bool          // it never became the worker: no callbacks
	gone      chan struct{} // closed when reaped

	exited     func(Exit)
	groupEnded func()
}

// PID is the leader's pid and the number of its group.
func (p *Process) PID() int { return p.pid }

// Capture returns the seccomp listener (seccomp_unotify(2)) that reads the bind(2) and
// listen(2) calls of the program and of all that it starts. It becomes the caller's, who
// must answer them: without a listener these calls fail with ENOSYS. Call it once, after a
// Start with Spec.Capture. fd is -1 where the calls can't be captured, and why says it.
func (p *Process) Capture() (fd int, why string) {
	fd, p.listener = p.listener, -1
	return fd, p.uncaptured
}

// Watch sets the callbacks; call it once, after Start. exited is called exactly once,
// after the leader's end, even if that was before. groupEnded is called only if
// Exit.Leftovers was set, after the end of the last process of the group. Both run on
// the reaper's goroutine, must not block, and may call Process's methods.
func (p *Process) Watch(exited func(Exit), groupEnded func()) {
	c := p.children
	c.mu.Lock()
	p.exited, p.groupEnded = exited, groupEnded
	if p.exit != nil {
		c.queueExited(p)
	}
	if p.over {
		c.queueGroupEnded(p)
	}
	c.mu.Unlock()
	c.wake()
}

// Signal sends sig to the leader, by pidfd, and continues its group: a stopped process
// handles no signal but SIGKILL before SIGCONT (signal(7)). os.ErrProcessDone: it has
// ended.
func (p *Process) Signal(sig syscall.Signal) error {
	p.signaling.Lock()
	defer p.signaling.Unlock()
	if p.exit != nil {
		return os.ErrProcessDone
	}
	err := unix.PidfdSendSignal(p.handle, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	resume(-p.pid, sig)
	return os.NewSyscallError("pidfd_send_signal", err)
}

// SignalGroup sends sig to the leader's group and continues it. The leader of a session
// can't leave its group (setpgid(2)). os.ErrProcessDone: the group has ended.
func (p *Process) SignalGroup(sig syscall.Signal) error {
	p.signaling.Lock()
	defer p.signaling.Unlock()
	if p.over {
		return os.ErrProcessDone
	}
	err := kill(-p.pid, sig)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("kill", err)
}

// kill sends sig to a process, or to the group -pid, and continues it.
func kill(pid int, sig syscall.Signal) error {
	err := unix.Kill(pid, sig)
	if err == nil {
		resume(pid, sig)
	}
	return err
}

// resume continues a process that was sent sig, unless that is to stop or kill it.
func resume(pid int, sig syscall.Signal) {
	if sig != unix.SIGKILL && sig != unix.SIGSTOP {
		_ = unix.Kill(pid, unix.SIGCONT) // it may have ended
	}
}

// Exit is how a worker's leader ended: with a status (Signal is 0), or by a signal (Code
// is -1).
type Exit struct {
	At     time.Time // when the master noticed
	Code   int
	Signal syscall.Signal
	Core   bool // it dumped core
	Traced bool // a tracer has its status and has not released it

	CPU time.Duration // that it and the children that it has waited for have used; 0 if Traced
	// Leftovers: other processes of its group live. The leader is reaped after their end,
	// and groupEnded follows (see Process.Watch).
	Leftovers bool
}

// String is "exit status 3", "killed by SIGKILL" or "killed by SIGSEGV (core
// dumped)".
func (e Exit) String() string {
	by := cmp.Or(unix.SignalName(e.Signal), e.Signal.String()) // the latter for real-time signals
	switch {
	case e.Traced:
		return "ended while it was traced (gdb, strace): its tracer has not released it"
	case e.Signal == 0:
		return fmt.Sprintf("exit status %d", e.Code)
	case e.Core:
		return "killed by " + by + " (core dumped)"
	}
	return "killed by " + by
}
