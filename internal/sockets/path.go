package sockets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
)

// socketFile is the file of a unix socket. It has a second name beside the
// public one, by which it is found again when a worker unlinks that: a socket
// without a name cannot be given one.
//
// The socket is bound to its public path and not to the other, because that is
// what getsockname(2) says for ever: nginx, puma and php-fpm take a passed
// socket only if it has the very address of their configuration.
type socketFile struct {
	path     string
	spare    string
	id       fileID // zero: not bound
	anchored bool   // spare is there
}

// fileID is what tells a file from another.
type fileID struct{ device, inode uint64 }

// fileState is who has the path.
type fileState int

const (
	fileMissing fileState = iota
	fileOurs
	fileStrange
)

func fileAt(path string) socketFile {
	return socketFile{path: path, spare: filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".forkd")}
}

// identify is lstat(2). It is false where there is nothing.
func identify(path string) (id fileID, mode uint32, err error) {
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		return fileID{}, 0, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return fileID{stat.Dev, stat.Ino}, stat.Mode & unix.S_IFMT, nil
}

// unlink removes a name, and never a directory that has come into its place, as
// os.Remove would.
func unlink(name string) error {
	if err := unix.Unlink(name); err != nil {
		return &fs.PathError{Op: "unlink", Path: name, Err: err}
	}
	return nil
}

// clear makes room at the path: a file that nobody listens behind is removed,
// and so is that of workers of this app, own, that a dead master has left. Others
// are refused, as a *HeldError where somebody listens.
func (f *socketFile) clear(l Listener, own func(Holder) bool, closer *closing.Closer) error {
	_, kind, err := identify(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f.clearSpare(l)
	case err != nil:
		return f.explain(l, err)
	case kind != unix.S_IFSOCK:
		return fmt.Errorf("cannot listen on %s: there is %s, and no socket: remove it or choose another path", l, kindOf(kind))
	}
	if alive(f.path, closer) {
		held := &HeldError{Listener: l, Holders: pathHolders(f.path)}
		if !held.Only(own) {
			return held
		}
	}
	if err := unlink(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f.explain(l, err)
	}
	return f.clearSpare(l)
}

// clearSpare removes a second name that a killed master has left.
func (f *socketFile) clearSpare(l Listener) error {
	_, kind, err := identify(f.spare)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil && kind != unix.S_IFSOCK:
		return fmt.Errorf("cannot listen on %s: forkd needs the name %s, and there is %s: remove it or choose another path", l, f.spare, kindOf(kind))
	case err == nil:
		err = unlink(f.spare)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f.explain(l, err)
	}
	return nil
}

// alive reports whether somebody listens behind a socket file. It is taken to be
// so where it cannot be told, as with a file that may not be written to.
func alive(path string, closer *closing.Closer) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return true
	}
	defer func() { go closer.Run(func() { unix.Close(fd) }) }() // who listens there may have sent something
	closing.RefuseRights(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	return !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT)
}

func kindOf(kind uint32) string {
	switch kind {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFIFO:
		return "a pipe"
	case unix.S_IFCHR:
		return "a character device"
	default:
		return "a file of another kind"
	}
}

// bind gives the socket its names. Without hard links there is one name only.
func (f *socketFile) bind(fd int, perm fs.FileMode) error {
	if perm != 0 { // the file begins with no more than that
		if err := unix.Fchmod(fd, uint32(perm.Perm())); err != nil {
			return os.NewSyscallError("fchmod", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: f.path}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if err := f.claim(fd); err != nil {
		return err
	}
	if perm != 0 {
		if err := f.chmod(perm); err != nil {
			f.remove()
			return err
		}
	}
	f.anchored = f.linkFrom(f.path, f.spare) == nil
	return nil
}

// recognise finds the files of a socket that was bound by an earlier master.
func (f *socketFile) recognise(fd int) {
	var known uint64
	if state, err := inspectUnix(inode(fd)); err == nil {
		known = state.inode
	}
	at, kind, err := identify(f.path)
	spare, spareKind, spareErr := identify(f.spare)
	f.anchored = spareErr == nil && spareKind == unix.S_IFSOCK && (known == 0 || uint32(spare.inode) == uint32(known))
	switch {
	case f.anchored:
		f.id = spare
	case err == nil && kind == unix.S_IFSOCK && (known == 0 || uint32(at.inode) == uint32(known)):
		f.id = at
		f.anchored = errors.Is(spareErr, fs.ErrNotExist) && f.linkFrom(f.path, f.spare) == nil
	}
}

// look says whose the path is now.
func (f *socketFile) look() (fileState, error) {
	switch id, _, err := identify(f.path); {
	case errors.Is(err, fs.ErrNotExist):
		return fileMissing, nil
	case err != nil:
		return fileMissing, err
	case id == f.id:
		return fileOurs, nil
	default:
		return fileStrange, nil
	}
}

// link brings the public name back, by the other one. The error is errNotOurs or
// fs.ErrNotExist where there is no other any more.
func (f *socketFile) link() error {
	if !f.anchored {
		return errNotOurs
	}
	return f.linkFrom(f.spare, f.path)
}

// remove takes the names away, as far as they are this socket's.
func (f *socketFile) remove() {
	for _, name := range []string{f.path, f.spare} {
		if id, _, err := identify(name); err == nil && id == f.id {
			// What stays is stale, and replaced by whoever binds next.
			_ = unlink(name)
		}
	}
	f.id, f.anchored = fileID{}, false
}

// explain says what to do about a file that cannot be made.
func (f *socketFile) explain(l Listener, err error) error {
	dir := filepath.Dir(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cannot listen on %s: there is no directory %s: make it (RuntimeDirectory= in a systemd unit does)", l, dir)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("cannot listen on %s: a part of %s is no directory: choose another path", l, dir)
	case errors.Is(err, unix.EADDRINUSE), errors.Is(err, errNotOurs):
		return fmt.Errorf("cannot listen on %s: somebody has just made a file there: try again or choose another path", l)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("cannot listen on %s: %s is read-only: choose a path under /run", l, dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot listen on %s: no permission to make or remove files in %s: give it to the master's user or choose another path", l, dir)
	default:
		return fmt.Errorf("cannot listen on %s: %w", l, err)
	}
}
