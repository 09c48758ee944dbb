package process

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loadTimeout bounds how long loading a program may take, from a network file system.
const loadTimeout = 30 * time.Second

// CheckProc returns an error that says what to do if there is no /proc, without which
// nothing can be started.
func CheckProc() error {
	if _, err := os.Readlink(ownProgram); err != nil {
		return errors.New("cannot start workers without /proc: mount -t proc proc /proc")
	}
	return nil
}

// ownProgram is the master's own binary, even if it was replaced on disk.
const ownProgram = "/proc/self/exe"

// Start starts a worker, as the leader of a new session without a terminal. It blocks until
// the program runs or has failed to (*StartError: the kernel's error). Serve must be
// running. For concurrent use. A failed start leaves nothing behind.
func (c *Children) Start(spec Spec) (*Process, error) {
	if u := spec.User; u != nil && (u.UID == math.MaxUint32 || u.GID == math.MaxUint32) {
		return nil, fmt.Errorf("cannot start %s: user or group %d means \"unchanged\" to the kernel", spec.Path, uint32(math.MaxUint32))
	}
	c.recording.RLock()
	defer c.recording.RUnlock()
	p, status, err := c.startShim(&spec)
	if errors.Is(err, unix.EAGAIN) {
		return nil, limitError(&spec)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", spec.Path, err)
	}
	defer status.Close()
	if err := p.await(status, &spec); err != nil {
		c.abandon(p)
		return nil, err
	}
	return p, nil
}

// startShim forks the shim. status is where it reports a failure.
func (c *Children) startShim(spec *Spec) (p *Process, status *os.File, err error) {
	status, writeEnd, err := statusPair()
	if err != nil {
		return nil, nil, err
	}
	defer writeEnd.Close()
	line, record := c.takeLine(recordOf(spec))
	plan, err := spec.write(line)
	if err == nil {
		defer plan.Close()
		p, err = c.forkOnThread(spec, writeEnd, plan, line, record)
	}
	if err != nil {
		status.Close()
		c.mu.Lock()
		c.freeLine(line)
		c.mu.Unlock()
		return nil, nil, err
	}
	return p, status, nil
}

// statusPair makes the socket that the shim writes to, and the end that is read.
func statusPair() (readEnd, writeEnd *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	_ = unix.SetNonblock(pair[0], true) // for deadlines; fails for no socket
	return os.NewFile(uintptr(pair[0]), "status"), os.NewFile(uintptr(pair[1]), "status"), nil
}

// await waits until the exec has closed the shim's end of the socket, or the shim has
// written why it failed.
func (p *Process) await(status *os.File, spec *Spec) error {
	if err := status.SetReadDeadline(time.Now().Add(loadTimeout)); err != nil {
		return fmt.Errorf("cannot start %s: %w", spec.Path, err)
	}
	r, err := readReport(status)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("cannot start %s: it could not be loaded within %v", spec.Path, loadTimeout)
	case err != nil:
		return fmt.Errorf("cannot start %s: %w", spec.Path, err)
	case len(r.text) > 0:
		r.close()
		return startError(spec, r.text)
	}
	p.listener, p.uncaptured = r.listener, r.why
	return nil
}

// forkOnThread has Serve fork the shim.
func (c *Children) forkOnThread(spec *Spec, status, plan *os.File, line, record int) (p *Process, err error) {
	var files []uintptr
	for _, fd := range spec.Files {
		files = append(files, uintptr(fd))
	}
	stderr := status.Fd()
	if len(files) > 2 {
		stderr, files[2] = files[2], stderr
	}
	files = append(files, status.Fd(), plan.Fd(), stderr, uintptr(record)) // planStatus, planText, planStderr, planRecord
	if spec.File != nil {
		files = append(files, spec.File.Fd()) // planFile
		defer runtime.KeepAlive(spec.File)
	}
	argv := []string{shimName, strconv.Itoa(len(spec.Files))}
	done := make(chan struct{})
	fork := func() {
		p, err = c.fork(argv, files, line)
		close(done)
	}
	select {
	case c.forks <- fork:
		<-done
		return p, err
	case <-c.served:
		return nil, errors.New("this master starts nothing any more")
	}
}

// fork runs on Serve's thread.
func (c *Children) fork(argv []string, files []uintptr, line int) (*Process, error) {
	handle := -1
	attr := syscall.ProcAttr{Env: shimEnv(), Files: files, Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &handle}}
	c.mu.Lock()
	defer c.mu.Unlock()
	start := ticksNow()
	pid, err := syscall.ForkExec(ownProgram, argv, &attr)
	if err != nil {
		return nil, fmt.Errorf("cannot make a process: %w", err)
	}
	p := &Process{children: c, pid: pid, start: start, handle: handle, line: line, listener: -1, gone: make(chan struct{})}
	c.workers[pid] = p
	return p, nil
}

// abandon kills a shim that did not become the worker and waits until it is reaped, but
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
