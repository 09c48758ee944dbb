package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/forkd/forkd/internal/closing"
)

// Place is an app's directory while its master lives: the name is taken, the
// pid written, the control socket open. Its owner calls Remove at the end; when
// it dies before, the next Create cleans up.
type Place struct {
	App string
	Dir string // DIR/APP; others may enter it, but not list it: workers of another user reach their notify sockets there

	dir      *os.File // Dir itself: everything is done in this one
	lock     *os.File // locked, close-on-exec: an inherited lock would outlive the master
	listener *net.UnixListener
	made     []string // directories that were missing
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
func Create(app string, group int) (*Place, error) { return createIn(own()[0], app, group) }

func createIn(dir, app string, group int) (*Place, error) {
	if !ValidName(app) {
		return nil, fmt.Errorf("cannot run %q: %s", app, NameRule)
	}
	p := &Place{App: app, Dir: filepath.Join(dir, app)}
	for {
		err := p.take(dir)
		if errors.Is(err, errMoved) {
			continue // its last owner was just cleaning up
		}
		if err != nil {
			removeDirs(p.made)
			return nil, err
		}
		break
	}
	if err := p.furnish(group); err != nil {
		p.Remove()
		return nil, err
	}
	return p, nil
}

// errMoved says that what was opened is no longer what the path names.
var errMoved = errors.New("removed meanwhile")

// take makes the directory and locks it.
func (p *Place) take(dir string) error {
	made, err := makeDirs(dir)
	p.made = append(p.made, made...)
	if err != nil {
		return unusable(dir, err)
	}
	switch err := os.Mkdir(p.Dir, 0o711); {
	case err == nil:
		p.made = append(p.made, p.Dir)
	case errors.Is(err, fs.ErrNotExist):
		return errMoved
	case !errors.Is(err, fs.ErrExist):
		return unusable(p.Dir, err)
	}
	open, err := openOwn(p.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errMoved
	case err != nil:
		return unusable(p.Dir, err)
	}
	if err := p.flock(open); err != nil {
		open.Close()
		return err
	}
	p.dir = open
	return nil
}

// flock locks the lock's file in the directory.
func (p *Place) flock(dir *os.File) error {
	path := p.Path(lockName)
	lock, err := os.OpenFile(within(dir, lockName), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errMoved
	case err != nil:
		return unusable(path, err)
	}
	if info, err := lock.Stat(); err != nil || !info.Mode().IsRegular() || owner(info) != os.Geteuid() {
		lock.Close() // others could write to the directory, once
		return fmt.Errorf("cannot use %s: it is no file of yours: remove it", path)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return &TakenError{App: p.App, PID: readPID(within(dir, pidName))}
		}
		return unusable(path, err)
	}
	if !stillNames(path, lock) {
		lock.Close()
		return errMoved
	}
	p.lock = lock
	return nil
}

// furnish puts the pid and the control socket into a directory that is ours. A
// dead master's sockets go first: nobody listens there.
func (p *Place) furnish(group int) error {
	if err := os.Chmod(p.at(""), 0o711); err != nil {
		return unusable(p.Dir, err)
	}
	if err := reachable(filepath.Dir(p.Dir), group); err != nil {
		return err
	}
	p.sweep()
	if err := p.writePID(); err != nil {
		return unusable(p.Path(pidName), err)
	}
	path := p.Path(socketName)
	if limit := len(syscall.RawSockaddrUnix{}.Path) - 1; len(path) > limit {
		return fmt.Errorf("cannot listen on %s: the path is longer than the %d bytes of a socket's: set FORKD_RUNTIME_DIR to a shorter one", path, limit)
	}
	// bind(2) gives the file the socket's own mode, so that it is never open to
	// others, not for a moment (unix_bind_bsd in net/unix/af_unix.c).
	closed := func(_, _ string, c syscall.RawConn) error {
		var err error
		ctl := c.Control(func(fd uintptr) {
			closing.RefuseRights(int(fd))
			err = syscall.Fchmod(int(fd), 0o600)
		})
		return errors.Join(ctl, err)
	}
	ln, err := (&net.ListenConfig{Control: closed}).Listen(context.Background(), "unix", p.at(socketName))
	if err != nil {
		return unusable(path, err)
	}
	p.listener = ln.(*net.UnixListener)
	if group < 0 {
		return nil
	}
	// In this order: it is never open to another group.
	if err := os.Lchown(p.at(socketName), -1, group); err != nil {
		return fmt.Errorf("cannot give %s to group %d (control.group): %v: be root, or a member of that group", path, group, cause(err))
	}
	if err := os.Chmod(p.at(socketName), 0o660); err != nil {
		return unusable(path, err)
	}
	return nil
}

// writePID writes this process's pid, all at once, and into no file that was
// there before: while others could write to the directory.
func (p *Place) writePID() error {
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
func (p *Place) OpenLock() (*os.File, error) {
	f, err := os.OpenFile(p.at(lockName), os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, unusable(p.Path(lockName), err)
	}
	return f, nil
}

// Path returns where a file of this app is.
func (p *Place) Path(name string) string { return filepath.Join(p.Dir, name) }

// at is the same file as this process reaches it, whatever becomes of the path.
func (p *Place) at(name string) string { return within(p.dir, name) }

// Remove closes the control socket, removes what is in the directory of sockets,
// pid and lock, then the directory, with parents that Create made, unless others
// use it, and lets go of the name.
func (p *Place) Remove() {
	if p.listener != nil {
		p.listener.Close()
	}
	p.sweep()
	_ = os.Remove(p.at(pidName))
	_ = os.Remove(p.at(lockName))     // while it is locked: see stillNames
	removeDirs(append(p.made, p.Dir)) // a dead master, or one that lost the race, may have made p.Dir
	p.lock.Close()
	p.dir.Close()
}

// sweep removes every socket file: only one master has the directory.
func (p *Place) sweep() {
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
