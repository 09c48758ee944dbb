package sockets

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/safefile"
)

// socketFile is the file of a unix socket. It has a second name, where the file system has
// hard links, from which the path is linked again if a worker unlinks it (decision 20).
// Whoever may write to the directory can replace either name at any moment, and a master
// that is root must not follow that: the file is known by its inode.
type socketFile struct {
	path   string
	second string
	info   os.FileInfo // nil: not bound
}

var errNotOurs = errors.New("somebody else's file is at its path")

func fileAt(path string) socketFile {
	return socketFile{path: path, second: filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".forkd")}
}

func statOf(info os.FileInfo) *syscall.Stat_t { return info.Sys().(*syscall.Stat_t) }

// clear frees the path: what is there gets the second name, for putBack or keep. A socket
// file on which nobody listens may be replaced, and one of workers of this app, own, that a
// dead master left. Any other is refused, with a *HeldError if somebody listens.
func (f *socketFile) clear(l Listener, own func(Holder) bool, closer *closing.Closer) error {
	for _, name := range []string{f.path, f.second} {
		info, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return f.explain(l, err)
		}
		switch kind := statOf(info).Mode & unix.S_IFMT; {
		case kind != unix.S_IFSOCK && name == f.path:
			return fmt.Errorf("cannot listen on %s: there is %s, and no socket: remove it or choose another path", l, kindOf(kind))
		case kind != unix.S_IFSOCK:
			return fmt.Errorf("cannot listen on %s: forkd needs the name %s, and there is %s: remove it or choose another path", l, name, kindOf(kind))
		case name == f.path && alive(name, closer):
			held := &HeldError{Listener: l, Holders: pathHolders(name)}
			if !held.Only(own) {
				return held
			}
		}
	}
	err := f.change(func() error {
		if err := unix.Unlink(f.second); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		return unix.Rename(f.path, f.second) // of two names of one file it would do nothing
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f.explain(l, err)
	}
	return nil
}

// putBack undoes clear, where nothing could be bound.
func (f *socketFile) putBack() {
	_ = f.change(func() error {
		return unix.Renameat2(unix.AT_FDCWD, f.second, unix.AT_FDCWD, f.path, unix.RENAME_NOREPLACE)
	})
}

// keep gives the socket's file the second name, in the place of what clear has put there.
func (f *socketFile) keep() {
	_ = f.change(func() error { return unix.Unlink(f.second) })
	_ = f.link(f.path, f.second) // without it another socket is bound when the path is gone
}

// alive reports whether somebody listens on a socket file; true where it cannot be told.
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
	names := map[uint32]string{
		unix.S_IFDIR: "a directory", unix.S_IFLNK: "a symbolic link", unix.S_IFREG: "a regular file",
		unix.S_IFIFO: "a pipe", unix.S_IFCHR: "a character device",
	}
	return cmp.Or(names[kind], "a file of another kind")
}

// bind binds the path, not the second name: getsockname(2) returns what was bound, and
// nginx, puma and php-fpm compare it with their configuration.
func (f *socketFile) bind(fd int, perm fs.FileMode) error {
	if perm != 0 { // the file begins with no more than that
		if err := unix.Fchmod(fd, uint32(perm.Perm())); err != nil {
			return os.NewSyscallError("fchmod", err)
		}
	}
	err := f.change(func() error { return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: f.path})) })
	if err == nil {
		err = f.identify(fd, f.path)
	}
	if err == nil && perm != 0 {
		err = f.chmod(perm)
	}
	return err
}

// recognise finds the file of an earlier master's socket.
func (f *socketFile) recognise(fd int) {
	if f.identify(fd, f.second) != nil && f.identify(fd, f.path) == nil {
		_ = f.link(f.path, f.second)
	}
}

// identify checks by sock_diag that the name leads to the socket's own file. Where the
// kernel does not tell, a socket file of this user is taken for it.
func (f *socketFile) identify(fd int, name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	stat := statOf(info)
	state, err := inspectUnix(inode(fd))
	known := err == nil && state.inode != 0
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK || known && uint32(state.inode) != uint32(stat.Ino) || !known && int(stat.Uid) != os.Geteuid() {
		return errNotOurs
	}
	f.info = info
	return nil
}

func (f *socketFile) isAt(name string) (bool, error) {
	info, err := os.Lstat(name)
	return os.SameFile(info, f.info), err
}

// remove unlinks the names that lead to the socket's own file.
func (f *socketFile) remove() {
	for _, name := range []string{f.path, f.second} {
		if ours, _ := f.isAt(name); ours {
			_ = f.change(func() error { return os.Remove(name) })
		}
	}
	f.info = nil
}

// on acts on the socket's own file, if the name leads to it, by a path of /proc that stays
// valid whatever becomes of the name, and in the directory where that is. act's errors must
// not show that path.
func (f *socketFile) on(name string, act func(path string, dir int) error) error {
	dir, err := unix.Open(filepath.Dir(name), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat(dir, filepath.Base(name), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	if info, err := file.Stat(); err != nil || !os.SameFile(info, f.info) {
		return errNotOurs
	}
	return act(fmt.Sprintf("/proc/self/fd/%d", fd), dir)
}

func (f *socketFile) chmod(perm fs.FileMode) error {
	return f.on(f.path, func(path string, _ int) error { return unix.Chmod(path, uint32(perm.Perm())) })
}

func (f *socketFile) chown(to Owner) error {
	return f.on(f.path, func(path string, _ int) error {
		if err := unix.Chown(path, int(to.UID), int(to.GID)); err != nil {
			return fmt.Errorf("chown to uid %d and gid %d: %w", to.UID, to.GID, err)
		}
		return nil
	})
}

// link gives the file another name beside one that it has, which is where whoever may lead
// the path elsewhere may make files too. So it needs nobody else's rights; they might not do:
// a file's owner or root alone may link it (protected_hardlinks, proc_sys_fs(5)).
func (f *socketFile) link(from, to string) error {
	return f.on(from, func(path string, dir int) error {
		return unix.Linkat(unix.AT_FDCWD, path, dir, filepath.Base(to), unix.AT_SYMLINK_FOLLOW) // the link of /proc alone
	})
}

// change makes or removes a name, with the rights of whoever may lead the directory's path
// elsewhere meanwhile: so nothing is changed that they could not change themselves.
func (f *socketFile) change(act func() error) error {
	uid, err := safefile.Redirector(filepath.Dir(f.path))
	if err == nil {
		asUser(uid, func() { err = act() })
	}
	return err
}

func (l Listener) owner() Owner {
	if l.Owner != nil {
		return *l.Owner
	}
	return Owner{uint32(os.Geteuid()), uint32(os.Getegid())}
}

// mode is the access mode of the file: that of the address, else what umask leaves.
func (l Listener) mode() (fs.FileMode, error) {
	if l.Perm != 0 {
		return l.Perm, nil
	}
	// umask(2) cannot be read without changing it.
	status, err := os.ReadFile("/proc/thread-self/status")
	_, rest, _ := strings.Cut(string(status), "\nUmask:")
	var mask fs.FileMode
	if err == nil {
		_, err = fmt.Sscanf(rest, "%o", &mask)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read the umask: %w", err)
	}
	return fs.ModePerm &^ mask, nil
}

// explain turns an error of making the file into advice.
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
		if uid, err := safefile.Redirector(dir); err == nil && uid != os.Geteuid() {
			return fmt.Errorf("cannot listen on %s: another user may have the path lead elsewhere, so that the socket is made with the rights of uid %d alone, which may not make or remove files in %s: give %s to that user, or choose a path whose directories are root's", l, uid, dir, dir)
		}
		return fmt.Errorf("cannot listen on %s: no permission to make or remove files in %s: give it to the master's user or choose another path", l, dir)
	default:
		return fmt.Errorf("cannot listen on %s: %w", l, err)
	}
}
