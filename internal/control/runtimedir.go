package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/closing"
)

// RuntimeDir is an app's directory while its master lives: the name is taken, the
// pid written, the control socket open. Its owner calls Remove at the end; when
// it dies before, the next Create cleans up.
type RuntimeDir struct {
	App string
	Dir string // DIR/APP; others may enter it, but not list it: workers of another user reach their notify sockets there

	// Unsure is why a second master of this name might not be found out, were the
	// directory lost: "" where it would.
	Unsure string

	group    int
	listener entrance

	mu      sync.Mutex // Inspect runs beside the loop, and may not have returned when Remove is called
	dir     *os.File   // Dir itself: everything is done in this one
	lock    *os.File   // locked, close-on-exec: an inherited lock would outlive the master
	second  secondLock
	made    []string // directories that were missing
	removed bool
}

// TakenError says that a live master has the name.
type TakenError struct {
	App string
	PID int // 0: not known
}

func (e *TakenError) Error() string {
	who := "another master"
	if e.PID != 0 {
		who = fmt.Sprintf("another master (pid %d)", e.PID)
	}
	return fmt.Sprintf("cannot run %s: %s has that name: stop it with forkd stop %s, or choose another with --name", e.App, who, e.App)
}

// Create takes the name for this process, in the first directory of contract 9.
// The control socket is for the members of a group too, unless that is -1. The
// errors are for users; a *TakenError says that the name is taken. What it made
// is removed again when it fails.
func Create(app string, group int) (*RuntimeDir, error) { return createIn(own()[0], app, group) }

func createIn(dir, app string, group int) (*RuntimeDir, error) {
	if !ValidName(app) {
		return nil, fmt.Errorf("cannot run %q: %s", app, NameRule)
	}
	p := &RuntimeDir{App: app, Dir: filepath.Join(dir, app), group: group}
	if err := p.takePatiently(); err != nil {
		p.second.release()
		removeDirs(p.made)
		return nil, err
	}
	p.sweep()
	if _, err := p.furnish(); err != nil {
		p.Remove()
		return nil, err
	}
	return p, nil
}

// errMoved says that what was opened is no longer what the path names.
var errMoved = errors.New("removed meanwhile")

// takePatiently waits for a master that is about to end, as one that was killed
// just now.
func (p *RuntimeDir) takePatiently() error {
	const (
		patience = 5 * time.Second
		again    = 10 * time.Millisecond
	)
	for began := time.Now(); ; {
		err := p.take()
		taken, ok := errors.AsType[*TakenError](err)
		switch {
		case errors.Is(err, errMoved): // its last owner was just cleaning up
		case ok && ends(taken.PID) && time.Since(began) < patience:
			time.Sleep(again)
		default:
			return err
		}
	}
}

// take makes the directory and locks the name. The lock that goes with no file comes
// first: who is refused has touched nothing of the other's.
func (p *RuntimeDir) take() error {
	base := filepath.Dir(p.Dir)
	made, err := makeDirs(base)
	p.made = append(p.made, made...)
	if err != nil {
		return unusable(base, err)
	}
	p.Unsure = ""
	switch err := p.second.take(base, p.App); {
	case errors.Is(err, fs.ErrNotExist):
		return errMoved
	case isTaken(err):
		return err
	case err != nil:
		p.Unsure = err.Error()
	}
	switch err := os.Mkdir(p.Dir, 0o711); {
	case err == nil:
		p.made = append(p.made, p.Dir)
	case errors.Is(err, fs.ErrNotExist):
		return errMoved
	case !errors.Is(err, fs.ErrExist):
		return unusable(p.Dir, err)
	}
	dir, err := openOwn(p.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errMoved
	case err != nil:
		return unusable(p.Dir, err)
	}
	lock, err := p.flock(dir)
	if err == nil {
		if err = os.Chmod(within(dir, ""), 0o711); err != nil {
			err = unusable(p.Dir, err)
			lock.Close()
		}
	}
	if err != nil {
		dir.Close()
		return err
	}
	p.letGo()
	p.dir, p.lock = dir, lock
	return nil
}

func isTaken(err error) bool {
	_, taken := errors.AsType[*TakenError](err)
	return taken
}

// letGo closes the directory and its lock, if there are.
func (p *RuntimeDir) letGo() {
	if p.dir != nil {
		p.dir.Close()
		p.lock.Close()
	}
}

// flock locks the lock's file in the directory.
func (p *RuntimeDir) flock(dir *os.File) (*os.File, error) {
	path := p.Path(lockName)
	lock, err := os.OpenFile(within(dir, lockName), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errMoved
	case err != nil:
		return nil, unusable(path, err)
	}
	if info, err := lock.Stat(); err != nil || !info.Mode().IsRegular() || owner(info) != os.Geteuid() {
		lock.Close() // others could write to the directory, once
		return nil, fmt.Errorf("cannot use %s: it is no file of yours: remove it", path)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &TakenError{App: p.App, PID: readPID(within(dir, pidName))}
		}
		return nil, unusable(path, err)
	}
	if !stillNames(path, lock) {
		lock.Close()
		return nil, errMoved
	}
	return lock, nil
}

// furnish puts what is missing into the directory: pid and control socket. It
// returns what was.
func (p *RuntimeDir) furnish() (missing []string, err error) {
	if err := reachable(filepath.Dir(p.Dir), p.group); err != nil {
		return nil, err
	}
	if readPID(p.at(pidName)) != os.Getpid() {
		if err := p.writePID(); err != nil {
			return nil, unusable(p.Path(pidName), err)
		}
		missing = append(missing, "pid")
	}
	if !p.listener.isAt(p.at(socketName)) {
		if err := p.listen(); err != nil {
			return missing, err
		}
		missing = append(missing, "control socket")
	}
	return missing, nil
}

// listen opens the control socket in its file, in place of what is there: a dead
// master's, or what somebody has put there. Clients of the old one are served on.
func (p *RuntimeDir) listen() error {
	path := p.Path(socketName)
	if limit := len(syscall.RawSockaddrUnix{}.Path) - 1; len(path) > limit {
		return fmt.Errorf("cannot listen on %s: the path is longer than the %d bytes of a socket's: set FORKD_RUNTIME_DIR to a shorter one", path, limit)
	}
	// bind(2) gives the file the socket's own mode, so that it is never open to
	// others, not for a moment (unix_bind_bsd in net/unix/af_unix.c).
	closed := func(_, _ string, c syscall.RawConn) error {
		var err error
		ctl := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) })
		return errors.Join(closing.Refuse("", "", c), ctl, err)
	}
	_ = syscall.Unlink(p.at(socketName)) // never a directory, as os.Remove would
	ln, err := listenUnix(p.at(socketName), closed)
	if err != nil {
		return unusable(path, err)
	}
	if p.group >= 0 { // in this order: the file is never open to another group
		if err = os.Lchown(p.at(socketName), -1, p.group); err != nil {
			err = fmt.Errorf("cannot give %s to group %d (control.group): %v: be root, or a member of that group", path, p.group, cause(err))
		} else {
			err = os.Chmod(p.at(socketName), 0o660)
		}
	}
	file, missing := os.Lstat(p.at(socketName))
	if err = cmp.Or(err, missing); err != nil {
		ln.Close()
		return unusable(path, err)
	}
	p.listener.change(ln, file)
	return nil
}

// listenUnix listens on a unix socket, and leaves its file alone when it is closed:
// by then it may be another's.
func listenUnix(name string, prepare func(network, address string, c syscall.RawConn) error) (*net.UnixListener, error) {
	ln, err := (&net.ListenConfig{Control: prepare}).Listen(context.Background(), "unix", name)
	if err != nil {
		return nil, err
	}
	unix := ln.(*net.UnixListener)
	unix.SetUnlinkOnClose(false)
	return unix, nil
}

// Inspect makes again what has been removed of the directory, lock, pid and control
// socket: by a clean-up of old files, a second unit's RuntimeDirectory=, the end of
// a login. It returns what that was. The error is for a person, and says why
// something is missing still. It may block on the file system: the supervisor calls
// it beside the loop, each second.
func (p *RuntimeDir) Inspect() (restored []string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed {
		return nil, nil
	}
	if !p.stands() {
		if err := p.take(); errors.Is(err, errMoved) {
			return nil, nil // it is being removed at this moment
		} else if err != nil {
			return nil, err
		}
		restored = append(restored, "directory and lock")
	} else if p.Unsure != "" && p.second.take(filepath.Dir(p.Dir), p.App) == nil {
		p.Unsure = ""
	}
	missing, err := p.furnish()
	return append(restored, missing...), err
}

// stands reports whether the path leads to the directory still, and to the lock.
func (p *RuntimeDir) stands() bool {
	return stillNames(p.Dir, p.dir) && stillNames(p.at(lockName), p.lock)
}

// writePID writes this process's pid, all at once, and into no file that was
// there before: while others could write to the directory.
func (p *RuntimeDir) writePID() error {
	temporary := p.at("." + pidName)
	_ = os.Remove(temporary)
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, os.Getpid())
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temporary, p.at(pidName))
	}
	if err != nil {
		_ = os.Remove(temporary)
	}
	return err
}

// OpenLock opens the lock's file once more, without the lock: what is in it, the
// records of the workers, is for the next master if this one is killed.
func (p *RuntimeDir) OpenLock() (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed {
		return nil, os.ErrClosed
	}
	f, err := os.OpenFile(p.at(lockName), os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, unusable(p.Path(lockName), err)
	}
	return f, nil
}

// Path returns where a file of this app is.
func (p *RuntimeDir) Path(name string) string { return filepath.Join(p.Dir, name) }

// at is the same file as this process reaches it, whatever becomes of the path.
func (p *RuntimeDir) at(name string) string { return within(p.dir, name) }

// Remove closes the control socket, removes what is in the directory of sockets,
// pid and lock, then the directory, with parents that Create made, unless others
// use it, and lets go of the name.
func (p *RuntimeDir) Remove() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.removed = true
	_ = p.listener.Close() // it may have been closed
	p.sweep()
	_ = os.Remove(p.at(pidName))
	_ = os.Remove(p.at(lockName))     // while it is locked: see stillNames
	removeDirs(append(p.made, p.Dir)) // a dead master, or one that lost the race, may have made p.Dir
	p.letGo()
	p.second.release()
}

// sweep removes every socket file: only one master has the directory, and nobody
// listens on a dead one's.
func (p *RuntimeDir) sweep() {
	entries, _ := os.ReadDir(p.at("")) // unreadable: then nothing can be removed either
	for _, e := range entries {
		if e.Type() == fs.ModeSocket {
			_ = os.Remove(p.at(e.Name()))
		}
	}
}

// stillNames reports whether path is the open file. The last owner of a lock
// removes it while it holds it, so that a lock on a nameless file counts for
// nothing.
func stillNames(path string, f *os.File) bool {
	named, err := os.Lstat(path)
	if err != nil {
		return false
	}
	opened, err := f.Stat()
	return err == nil && os.SameFile(named, opened)
}

func readPID(path string) int {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return pid
}

// cause is what the kernel said, without the path.
func cause(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

// unusable puts an error on a path into words, with what to do about it.
func unusable(path string, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err // has its own words
	}
	advice := "set FORKD_RUNTIME_DIR to a directory that you may write"
	if errno == syscall.ENOSPC || errno == syscall.EDQUOT {
		advice = "free some space, or set FORKD_RUNTIME_DIR to another disk"
	}
	if errno == syscall.EMFILE || errno == syscall.ENFILE {
		advice = "raise the limit on open files (ulimit -n)"
	}
	return fmt.Errorf("cannot use %s: %s: %s", path, errno.Error(), advice)
}

// entrance is the control socket that clients come in by: another one when the file
// of the first has been removed.
type entrance struct {
	now    atomic.Pointer[net.UnixListener]
	closed atomic.Bool
	file   fs.FileInfo // of now: RuntimeDir.mu
}

// Accept implements net.Listener.
func (e *entrance) Accept() (net.Conn, error) {
	for {
		ln := e.now.Load()
		conn, err := ln.Accept()
		if err == nil || ln == e.now.Load() {
			return conn, err
		}
	}
}

// Close implements net.Listener.
func (e *entrance) Close() error {
	e.closed.Store(true)
	if ln := e.now.Load(); ln != nil {
		return ln.Close()
	}
	return nil
}

// Addr implements net.Listener.
func (e *entrance) Addr() net.Addr { return e.now.Load().Addr() }

// isAt reports whether the path leads to the socket.
func (e *entrance) isAt(path string) bool {
	file, err := os.Lstat(path)
	return err == nil && e.file != nil && os.SameFile(file, e.file)
}

// change replaces the socket, whose clients are served on.
func (e *entrance) change(ln *net.UnixListener, file fs.FileInfo) {
	e.file = file
	old := e.now.Swap(ln)
	if e.closed.Load() {
		ln.Close()
	}
	if old != nil {
		old.Close()
	}
}
