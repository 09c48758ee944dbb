package sockets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errNotOurs says that a name leads to another file than the socket's. Whoever
// may write to the directory can bring that about at any moment, and a master
// that is root must not be led by it.
var errNotOurs = errors.New("somebody else's file is at its path")

// pin opens a name without following a symbolic link, and without a right to
// anything but the file's identity. The caller closes it.
func pin(name string) (fd int, stat unix.Stat_t, err error) {
	if fd, err = unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return -1, stat, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if err := unix.Fstat(fd, &stat); err != nil {
		unix.Close(fd)
		return -1, stat, &fs.PathError{Op: "fstat", Path: name, Err: err}
	}
	return fd, stat, nil
}

// on acts on the socket's own file, if the name leads to it: by a path that
// stays the file's, whatever becomes of the name meanwhile.
func (f *socketFile) on(name string, act func(path string) error) error {
	fd, stat, err := pin(name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if f.id == (fileID{}) || (fileID{stat.Dev, stat.Ino}) != f.id {
		return errNotOurs
	}
	return act(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// claim finds out which file bind(2) has made. The kernel is asked what the
// socket's is; where it was not built to say, a socket that this user has made
// is taken for it.
func (f *socketFile) claim(fd int) error {
	pinned, stat, err := pin(f.path)
	if err != nil {
		return err
	}
	unix.Close(pinned)
	state, err := inspectUnix(inode(fd))
	switch known := err == nil && state.inode != 0; {
	case stat.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return errNotOurs
	case known && uint32(state.inode) != uint32(stat.Ino):
		return errNotOurs
	case !known && int(stat.Uid) != os.Geteuid():
		return errNotOurs
	}
	f.id = fileID{stat.Dev, stat.Ino}
	return nil
}

// chmod sets the mode of the socket's own file.
func (f *socketFile) chmod(perm fs.FileMode) error {
	return f.on(f.path, func(path string) error { return bare(os.Chmod(path, perm.Perm())) })
}

// chown gives the socket's own file to a user and group, where it is not theirs.
func (f *socketFile) chown(to Owner) error {
	return f.on(f.path, func(path string) error {
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err != nil || stat.Uid == to.UID && stat.Gid == to.GID {
			return err
		}
		if err := unix.Chown(path, int(to.UID), int(to.GID)); err != nil {
			return fmt.Errorf("chown to uid %d and gid %d: %w", to.UID, to.GID, err)
		}
		return nil
	})
}

// owner is whose the listener's file is to be.
func (l Listener) owner() Owner {
	if l.Owner != nil {
		return *l.Owner
	}
	return Owner{uint32(os.Geteuid()), uint32(os.Getegid())}
}

// mode is what the listener's file is to have: without ?mode= what bind(2) gives.
func (l Listener) mode() (fs.FileMode, error) {
	if l.Perm != 0 {
		return l.Perm, nil
	}
	mask, err := umask()
	return fs.ModePerm &^ mask, err
}

// umask reads this process's: umask(2) cannot without changing it.
func umask() (fs.FileMode, error) {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0, fmt.Errorf("cannot read the umask: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if digits, found := strings.CutPrefix(line, "Umask:"); found {
			mask, err := strconv.ParseUint(strings.TrimSpace(digits), 8, 32)
			return fs.FileMode(mask) & fs.ModePerm, err
		}
	}
	return 0, errors.New("cannot read the umask: the kernel does not show it")
}

// linkFrom gives the socket's own file another name.
func (f *socketFile) linkFrom(from, to string) error {
	return f.on(from, func(path string) error {
		return bare(unix.Linkat(unix.AT_FDCWD, path, unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW)) // the link of /proc alone
	})
}

// bare leaves out the path of an error, which nobody knows.
func bare(err error) error {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return failed.Err
	}
	return err
}
