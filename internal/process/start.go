package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// beginTimeout bounds how long a program may take to be loaded, from a network
// file system at its worst.
const beginTimeout = 30 * time.Second

// CheckProc says what to do where there is no /proc: nothing can be started there.
// A master asks first of all.
func CheckProc() error {
	if _, err := os.Readlink(ownProgram); err != nil {
		return errors.New("cannot start workers without /proc: mount -t proc proc /proc")
	}
	return nil
}

// ownProgram is the master's own binary, even where another has taken its place on
// disk.
const ownProgram = "/proc/self/exe"

// Start makes a worker of spec, as the leader of a new session, without a terminal. It blocks
// until the program runs or can't (a *StartError says why in words), needs Serve
// to be running, and may be called from many goroutines at once. A worker that
// was not started leaves nothing behind.
func (c *Children) Start(spec Spec) (*Process, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	text, err := spec.memfd()
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", spec.Path, err)
	}
	defer unix.Close(text)
	status, told, err := statusPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", spec.Path, err)
	}
	defer status.Close()
	line, record, err := c.reserve(&spec)
	if err != nil {
		unix.Close(told)
		return nil, fmt.Errorf("cannot start %s: %w", spec.Path, err)
	}
	p, err := c.forkOnThread(&spec, told, text, line, record)
	unix.Close(told)
	unix.Close(record)
	if err != nil {
		c.mu.Lock()
		c.freeLine(line)
		c.mu.Unlock()
	}
	if errors.Is(err, unix.EAGAIN) {
		return nil, &StartError{Path: spec.Path, Errno: unix.EAGAIN, text: fmt.Sprintf("cannot start %s: %s", spec.Path, noRoom)}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: cannot make a process: %w", spec.Path, err)
	}
	if err := readStatus(status, &spec); err != nil {
		c.abandon(p)
		return nil, err
	}
	return p, nil
}

// statusPipe is how the shim tells how it failed. The master's end can be
// waited for with a deadline, and costs no thread.
func statusPipe() (status *os.File, told int, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, os.NewSyscallError("pipe2", err)
	}
	if err := unix.SetNonblock(ends[0], true); err != nil {
		unix.Close(ends[0])
		unix.Close(ends[1])
		return nil, -1, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(ends[0]), "status"), ends[1], nil
}

// readStatus waits until the shim has become the program (the exec closes its
// end of the pipe), or says why it can't.
func readStatus(status *os.File, spec *Spec) error {
	if err := status.SetReadDeadline(time.Now().Add(beginTimeout)); err != nil {
		return fmt.Errorf("cannot start %s: %w", spec.Path, err)
	}
	words, err := io.ReadAll(io.LimitReader(status, maxWords))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("cannot start %s: it could not be loaded within %v", spec.Path, beginTimeout)
	case err != nil:
		return fmt.Errorf("cannot start %s: %w", spec.Path, err)
	case len(words) > 0:
		return startError(spec, words)
	}
	return nil
}

// fork asks Serve for a process.
type fork struct {
	attr syscall.ProcAttr
	argv []string
	line int         // of the records
	done chan forked // of capacity 1
}

type forked struct {
	process *Process
	err     error
}

// forkOnThread has Serve fork the shim.
func (c *Children) forkOnThread(spec *Spec, told, text, line, record int) (*Process, error) {
	var files []uintptr
	for _, fd := range spec.Files {
		files = append(files, uintptr(fd))
	}
	stderr := uintptr(told)
	if len(files) > 2 {
		stderr, files[2] = files[2], stderr
	}
	files = append(files, uintptr(told), uintptr(text), stderr, uintptr(record)) // planStatus, planText, planStderr, planRecord
	if spec.File != nil {
		raw, err := spec.File.SyscallConn()
		if err != nil {
			return nil, err
		}
		var process *Process
		var forkErr error
		err = raw.Control(func(fd uintptr) { // planFile; stays open during the call
			process, forkErr = c.forkFiles(append(files, fd), len(spec.Files), line)
		})
		if err != nil {
			return nil, err
		}
		return process, forkErr
	}
	return c.forkFiles(files, len(spec.Files), line)
}

func (c *Children) forkFiles(files []uintptr, first, line int) (*Process, error) {
	f := fork{
		attr: syscall.ProcAttr{Env: shimEnv(), Files: files},
		argv: []string{shimName, strconv.Itoa(first), strconv.Itoa(line)},
		line: line,
		done: make(chan forked, 1),
	}
	select {
	case c.forks <- f:
	case <-c.served:
		return nil, errors.New("this master starts nothing any more")
	}
	got := <-f.done
	return got.process, got.err
}

// fork runs on Serve's thread.
func (c *Children) fork(f fork) forked {
	handle := -1
	f.attr.Sys = &syscall.SysProcAttr{Setsid: true, PidFD: &handle}
	c.mu.Lock()
	defer c.mu.Unlock()
	start := ticksNow()
	pid, err := syscall.ForkExec(ownProgram, f.argv, &f.attr)
	if err != nil {
		return forked{err: err}
	}
	p := &Process{children: c, pid: pid, start: start, handle: handle, line: f.line, gone: make(chan struct{})}
	c.workers[pid] = p
	return forked{process: p}
}

// abandon ends a shim that did not become the worker, and waits until it is
// reaped, but not for one that is stuck in the kernel.
func (c *Children) abandon(p *Process) {
	c.mu.Lock()
	p.abandoned = true
	c.mu.Unlock()
	_ = p.Signal(unix.SIGKILL) // it has ended, or is about to
	stuck := time.NewTimer(time.Second)
	defer stuck.Stop()
	select {
	case <-p.gone:
	case <-c.ended:
	case <-stuck.C:
	}
}
