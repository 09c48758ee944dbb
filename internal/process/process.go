package process

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a worker: the leader of a session and process group of its own. Made by
// Children.Start. Its fields belong to Children.mu.
type Process struct {
	children *Children
	pid      int
	start    uint64 // clock ticks after boot, or a little before
	handle   int    // pidfd; closed when reaped
	line     int    // of the records

	exit      *Exit         // nil while it runs
	over      bool          // the group is empty: nobody may be signaled any more
	abandoned bool          // it never became the worker: nobody is told
	gone      chan struct{} // closed when reaped

	exited     func(Exit)
	groupEnded func()
}

// PID is the leader's pid and the number of its group.
func (p *Process) PID() int { return p.pid }

// Watch says whom to tell of the end; call it once, after Start. exited comes
// exactly once, when the leader has ended, however long ago; groupEnded only
// where Exit.Leftovers was set, when the last of the group is gone. Both come
// from the reaper's goroutine, must not block, and may call Process's methods.
func (p *Process) Watch(exited func(Exit), groupEnded func()) {
	c := p.children
	c.mu.Lock()
	p.exited, p.groupEnded = exited, groupEnded
	if p.exit != nil {
		c.tellExited(p)
	}
	if p.over {
		c.tellGroupEnded(p)
	}
	c.mu.Unlock()
	c.wake()
}

// Signal sends sig to the leader, by pidfd, and continues its group: a process that
// is stopped takes no signal before SIGCONT but SIGKILL (signal(7)).
// os.ErrProcessDone: it has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	p.children.mu.Lock()
	defer p.children.mu.Unlock()
	return p.signal(sig)
}

func (p *Process) signal(sig syscall.Signal) error {
	if p.exit != nil {
		return os.ErrProcessDone
	}
	err := unix.PidfdSendSignal(p.handle, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	wake(-p.pid, sig)
	return os.NewSyscallError("pidfd_send_signal", err)
}

// SignalGroup sends sig to everyone in the leader's group and continues them. The leader
// of a session can't leave its group (setpgid(2)). os.ErrProcessDone: the group has ended.
func (p *Process) SignalGroup(sig syscall.Signal) error {
	p.children.mu.Lock()
	defer p.children.mu.Unlock()
	if p.over {
		return os.ErrProcessDone
	}
	err := kill(-p.pid, sig)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("kill", err)
}

// kill sends sig to a process, or to the group -pid, and has who is stopped take it.
func kill(pid int, sig syscall.Signal) error {
	err := unix.Kill(pid, sig)
	if err == nil {
		wake(pid, sig)
	}
	return err
}

// wake continues who was sent sig, unless that stops or kills.
func wake(pid int, sig syscall.Signal) {
	if sig != unix.SIGKILL && sig != unix.SIGSTOP {
		_ = unix.Kill(pid, unix.SIGCONT) // it may have ended of sig
	}
}
