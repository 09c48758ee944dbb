package process

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// loadTimeout bounds how long loading a program may take, from a network file system.
const loadTimeout = 30 * time.Second

// CheckProc returns an error that says what to do if there is no /proc, which tells nearly
// all that a master knows of its workers.
func CheckProc() error {
	if _, err := os.Readlink("/proc/self/exe"); err != nil {
		return errors.New("cannot start workers without /proc: mount -t proc proc /proc")
	}
	return nil
}

// Start starts a worker, as the leader of a new session without a terminal. It blocks until
// the program runs or has failed to (*StartError: the kernel's error). Serve must be
// running. For concurrent use. A failed start leaves nothing behind.
func (c *Children) Start(spec Spec) (*Process, error) {
	if u := spec.User; u != nil && (u.UID == math.MaxUint32 || u.GID == math.MaxUint32) {
		return nil, fmt.Errorf("cannot start %s: user or group %d means \"unchanged\" to the kernel", spec.Path, uint32(math.MaxUint32))
	}
	c.recording.RLock()
	defer c.recording.RUnlock()
	status, theirs, err := statusPair()
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", spec.Path, err)
	}
	defer status.Close()
	p, plan, err := c.forkOnThread(&spec, int(theirs.Fd()))
	theirs.Close()
	if errors.Is(err, unix.EAGAIN) {
		return nil, limitError(&spec)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", spec.Path, err)
	}
	if err := p.await(status, plan, &spec); err != nil {
		c.abandon(p)
		return nil, err
	}
	return p, nil
}

// statusPair makes the socket that the child reports to, and the end that is read.
func statusPair() (readEnd, writeEnd *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	_ = unix.SetNonblock(pair[0], true) // for deadlines; fails for no socket
	return os.NewFile(uintptr(pair[0]), "status"), os.NewFile(uintptr(pair[1]), "status"), nil
}

// await waits until the exec has closed the child's end of the socket, or the child has
// written why it failed.
func (p *Process) await(status *os.File, plan *plan, spec *Spec) error {
	if err := status.SetReadDeadline(time.Now().Add(loadTimeout)); err != nil {
		return fmt.Errorf("cannot start %s: %w", spec.Path, err)
	}
	r, err := plan.readResult(status)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("cannot start %s: it could not be loaded within %v", spec.Path, loadTimeout)
	case err != nil:
		return fmt.Errorf("cannot start %s: %w", spec.Path, err)
	case r.failed != nil:
		return startError(spec, r.failed.doing, r.errno)
	}
	p.listener, p.uncaptured = r.listener, r.why
	return nil
}

// forkOnThread has Serve fork. A failure leaves nothing behind.
func (c *Children) forkOnThread(spec *Spec, status int) (p *Process, plan *plan, err error) {
	line, records := c.takeLine(recordOf(spec))
	done := make(chan struct{})
	fork := func() {
		defer close(done)
		if plan, err = newPlan(spec, status, records, line, c.noFile); err == nil {
			p, err = c.fork(plan, line)
			plan.close()
		}
	}
	select {
	case c.forks <- fork:
		<-done
	case <-c.served:
		err = errors.New("this master starts nothing any more")
	}
	if err != nil {
		c.mu.Lock()
		c.freeLine(line)
		c.mu.Unlock()
	}
	return p, plan, err
}

// fork runs on Serve's thread.
func (c *Children) fork(plan *plan, line int) (*Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	start := ticksNow()
	var before unix.Sigset_t
	all := unix.Sigset_t{Val: [16]uint64(slices.Repeat([]uint64{math.MaxUint64}, 16))}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return nil, fmt.Errorf("cannot block signals: %w", err)
	}
	pid, errno := plan.forkSelf()
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	if errno != 0 {
		return nil, fmt.Errorf("cannot make a process: %w", errno)
	}
	p := &Process{children: c, pid: pid, start: start, handle: int(plan.handle), line: line, listener: -1, gone: make(chan struct{})}
	c.workers[pid] = p
	return p, nil
}

// abandon kills a child that did not become the worker and waits until it is reaped, but
// not if it hangs in the kernel.
func (c *Children) abandon(p *Process) {
	c.mu.Lock()
	p.abandoned = true
	c.mu.Unlock()
	_ = p.Signal(unix.SIGKILL) // it has ended, or is about to
	select {
	case <-p.gone:
	case <-c.ended:
	case <-time.After(time.Second):
	}
}
