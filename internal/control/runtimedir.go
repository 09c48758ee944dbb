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
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/closing"
)

// RuntimeDir is an app's directory while its master lives: the name is locked, the
// pid written, the control socket open. Its owner calls Remove at the end; after a
// crash the next Create cleans up.
type RuntimeDir struct {
	App string
	Dir string // DIR/APP; others may enter it, but not list it: workers of another user reach their notify sockets there

	// Unsure is why a second master of this name might not be noticed if the
	// directory were removed; "": it would be.
	Unsure string

	group    int
	listener controlListener

	mu       sync.Mutex        // Inspect runs beside the loop, and may still run when Remove is called
	dir      *os.File          // Dir itself: files are reached through it, whatever becomes of the path
	lock     *os.File          // locked, close-on-exec: an inherited lock would outlive the master
	socket   fs.FileInfo       // the file of the control socket
	nameLock *net.UnixListener // nil: somebody else has it
	kept     map[string]string // other files, by name
	made     []string          // parents that were missing
	removed  bool
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

func isTaken(err error) bool {
	_, taken := errors.AsType[*TakenError](err)
	return taken
}

// Create takes the name for this process, in the first directory of docs/contract.md, Control socket.
// The control socket is for the members of a group too, unless that is -1. The
// errors are for users; a *TakenError says that the name is taken. What it made
// is removed again when it fails.
func Create(app string, group int) (*RuntimeDir, error) { return createIn(Dir(), app, group) }

func createIn(base, app string, group int) (*RuntimeDir, error) {
	if !ValidName(app) {
		return nil, fmt.Errorf("cannot run %q: %s", app, NameRule)
	}
	d := &RuntimeDir{App: app, Dir: filepath.Join(base, app), group: group}
	err := d.takeWithRetry()
	if err == nil {
		d.removeSockets()
		_, err = d.restore()
	}
	if err != nil {
		d.Remove()
		return nil, unusable(d.Dir, err)
	}
	return d, nil
}

// takeWithRetry waits for a master that is about to end, for example one that has
// just been killed.
func (d *RuntimeDir) takeWithRetry() error {
	const (
		timeout  = 5 * time.Second
		interval = 10 * time.Millisecond
	)
	for began := time.Now(); ; {
		err := d.take()
		taken, ok := errors.AsType[*TakenError](err)
		switch {
		case errors.Is(err, fs.ErrNotExist): // its last owner was just cleaning up
		case ok && ends(taken.PID) && time.Since(began) < timeout:
			time.Sleep(interval)
		default:
			return err
		}
	}
}

// take makes the directory and locks the name, first without a file: a master that is
// refused has touched nothing of the other's. With fs.ErrNotExist somebody has removed
// something meanwhile.
func (d *RuntimeDir) take() error {
	base := filepath.Dir(d.Dir)
	made, err := makeDirs(base)
	d.made = append(d.made, made...)
	if err != nil {
		return unusable(base, err)
	}
	d.Unsure = ""
	if err := d.takeName(); isTaken(err) || errors.Is(err, fs.ErrNotExist) {
		return err
	} else if err != nil {
		d.Unsure = err.Error()
	}
	if err := os.Mkdir(d.Dir, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d.closeFiles()
	if d.dir, err = openOwn(d.Dir); err == nil {
		err = d.flock()
	}
	if err == nil {
		err = os.Chmod(d.at(""), 0o711) // mkdir(2) has applied the umask
	}
	if err != nil {
		d.closeFiles()
	}
	return err
}

// flock locks the lock's file in the directory.
func (d *RuntimeDir) flock() (err error) {
	path := d.Path(lockName)
	d.lock, err = os.OpenFile(d.at(lockName), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil:
		return unusable(path, err)
	}
	if info, err := d.lock.Stat(); err != nil || !info.Mode().IsRegular() || owner(info) != os.Geteuid() {
		return fmt.Errorf("cannot use %s: it is no file of yours: remove it", path) // others could write to the directory, once
	}
	err = syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return &TakenError{App: d.App, PID: readPID(d.at(pidName))}
	case err == nil && !leadsTo(path, d.lock):
		return fs.ErrNotExist
	}
	return err
}

// closeFiles closes the directory and its lock, if there are.
func (d *RuntimeDir) closeFiles() {
	d.dir.Close() // or nothing, if it is nil
	d.lock.Close()
	d.dir, d.lock = nil, nil
}

// restore makes what is missing in the directory, pid and control socket. It
// returns what was.
func (d *RuntimeDir) restore() (missing []string, err error) {
	if err := reachable(filepath.Dir(d.Dir), d.group); err != nil {
		return nil, err
	}
	if readPID(d.at(pidName)) != os.Getpid() {
		if err := d.write(pidName, fmt.Sprintln(os.Getpid())); err != nil {
			return nil, unusable(d.Path(pidName), err)
		}
		missing = append(missing, "pid")
	}
	for name, text := range d.kept {
		if _, err := os.Lstat(d.at(name)); err == nil {
			continue
		}
		if err := d.write(name, text); err != nil {
			return missing, unusable(d.Path(name), err)
		}
		missing = append(missing, name)
	}
	if file, err := os.Lstat(d.at(socketName)); err != nil || d.socket == nil || !os.SameFile(file, d.socket) {
		if err := d.listen(); err != nil {
			return missing, err
		}
		missing = append(missing, "control socket")
	}
	return missing, nil
}

// write writes a file that everybody may read, all at once, and into no file that was
// there before: others could write to the directory, once.
func (d *RuntimeDir) write(name, text string) error {
	temporary := d.at("." + name)
	_ = os.Remove(temporary)
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer os.Remove(temporary) // if it is still there
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil { // open(2) has applied the umask
		return err
	}
	return os.Rename(temporary, d.at(name))
}

// Keep has a file for the workers in the directory until Remove. Its name ends in .cjs or
// .zip. It may block.
func (d *RuntimeDir) Keep(name, text string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return nil
	}
	if _, err := os.Lstat(d.at(name)); err == nil && d.kept[name] == text {
		return nil
	}
	if err := d.write(name, text); err != nil {
		return unusable(d.Path(name), err)
	}
	if d.kept == nil {
		d.kept = map[string]string{}
	}
	d.kept[name] = text
	return nil
}

// listen opens the control socket in its file, in place of what is there: a dead
// master's, or what somebody has put there. Clients of the old one are served on.
func (d *RuntimeDir) listen() error {
	path := d.Path(socketName)
	if limit := len(syscall.RawSockaddrUnix{}.Path) - 1; len(path) > limit {
		return fmt.Errorf("cannot listen on %s: the path is longer than the %d bytes of a socket's: set FORKD_RUNTIME_DIR to a shorter one", path, limit)
	}
	// bind(2) gives the file the socket's own mode, so that it is never open to
	// others, not for a moment (unix_bind_bsd in net/unix/af_unix.c).
	private := func(_, _ string, c syscall.RawConn) error {
		var err error
		ctl := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) })
		return errors.Join(closing.Refuse("", "", c), ctl, err)
	}
	file := d.at(socketName)
	_ = syscall.Unlink(file) // never a directory, as os.Remove would
	ln, err := listenUnix(file, private)
	if err != nil {
		return unusable(path, err)
	}
	if d.group >= 0 { // in this order: the file is never open to another group
		if err = os.Lchown(file, -1, d.group); err != nil {
			err = fmt.Errorf("cannot give %s to group %d (control.group): %v: be root, or a member of that group", path, d.group, cause(err))
		} else {
			err = os.Chmod(file, 0o660)
		}
	}
	info, missing := os.Lstat(file)
	if err = cmp.Or(err, missing); err != nil {
		ln.Close()
		return unusable(path, err)
	}
	d.socket = info
	d.listener.replace(ln)
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
// something is still missing. It may block on the file system: the supervisor calls
// it beside the loop, each second.
func (d *RuntimeDir) Inspect() (restored []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return nil, nil
	}
	if !leadsTo(d.Dir, d.dir) || !leadsTo(d.at(lockName), d.lock) {
		if err := d.take(); errors.Is(err, fs.ErrNotExist) {
			return nil, nil // it is being removed at this moment
		} else if err != nil {
			return nil, unusable(d.Dir, err)
		}
		restored = append(restored, "directory and lock")
	} else if d.Unsure != "" && d.takeName() == nil {
		d.Unsure = ""
	}
	missing, err := d.restore()
	return append(restored, missing...), unusable(d.Dir, err)
}

// OpenLock opens the lock's file once more, without the lock: what is in it, the
// records of the workers, is for the next master if this one is killed.
func (d *RuntimeDir) OpenLock() (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := os.OpenFile(d.at(lockName), os.O_RDWR|syscall.O_NOFOLLOW, 0)
	return f, unusable(d.Path(lockName), err)
}

// Path returns where a file of this app is.
func (d *RuntimeDir) Path(name string) string { return filepath.Join(d.Dir, name) }

// at is the same file as this process reaches it, whatever becomes of the path.
func (d *RuntimeDir) at(name string) string { return within(d.dir, name) }

// Remove closes the control socket, removes the directory's sockets, pid and lock,
// then the directory itself, with parents that Create made, unless others use it,
// and unlocks the name.
func (d *RuntimeDir) Remove() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removed = true
	_ = d.listener.Close() // it may have been closed
	if d.dir != nil {
		d.removeSockets()
		for _, pattern := range []string{"*.cjs", "*.zip"} { // as Keep names them
			kept, _ := filepath.Glob(d.at(pattern)) // a dead master's too; the pattern is good: no error
			for _, file := range kept {
				_ = os.Remove(file)
			}
		}
		_ = os.Remove(d.at(pidName))
		_ = os.Remove(d.at(lockName)) // while it is locked: see leadsTo
	}
	for _, dir := range slices.Backward(append(d.made, d.Dir)) { // those that are not empty stay
		_ = syscall.Rmdir(dir) // os.Remove would take a file too
	}
	d.closeFiles()
	d.nameLock.Close() // or nothing
}

// removeSockets removes every socket file: only one master has the directory, and
// nobody listens on a dead one's.
func (d *RuntimeDir) removeSockets() {
	entries, _ := os.ReadDir(d.at("")) // unreadable: then nothing can be removed either
	for _, e := range entries {
		if e.Type() == fs.ModeSocket {
			_ = os.Remove(d.at(e.Name()))
		}
	}
}

// leadsTo reports whether path leads to the open file. The last owner of a lock
// removes the file while it is locked, so that a lock on a file without a name
// counts for nothing.
func leadsTo(path string, f *os.File) bool {
	named, err := os.Lstat(path)
	if err != nil {
		return false
	}
	opened, err := f.Stat()
	return err == nil && os.SameFile(named, opened)
}

// readPID returns 0 where there is none.
func readPID(path string) int {
	data, _ := os.ReadFile(path)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return pid
}
