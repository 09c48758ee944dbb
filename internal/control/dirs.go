package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The files of an app in its directory, DIR/APP.
const (
	socketName = "control.sock"
	pidName    = "pid"
	lockName   = "lock"
)

// own returns the directories that hold apps of this user, the one for a new
// master first (docs/contract.md, Control socket).
func own() []string {
	return append(DirsOf("FORKD_RUNTIME_DIR", "RUNTIME_DIRECTORY", "/run/forkd", "XDG_RUNTIME_DIR"), private())
}

// DirsOf are the directories in which forkd keeps what belongs to apps: that in a variable of
// its own; the one above that which systemd has made for this unit and named in another
// (systemd.exec(5), RuntimeDirectory=), the first of several; root's; the session's.
func DirsOf(variable, unit, root, session string) (dirs []string) {
	if dir := os.Getenv(variable); dir != "" {
		if abs, err := filepath.Abs(dir); err == nil {
			dir = abs
		}
		dirs = append(dirs, dir)
	}
	if first, _, _ := strings.Cut(os.Getenv(unit), ":"); filepath.IsAbs(first) {
		dirs = append(dirs, filepath.Dir(filepath.Clean(first)))
	}
	if os.Geteuid() == 0 {
		dirs = append(dirs, root)
	}
	if dir := os.Getenv(session); filepath.IsAbs(dir) {
		dirs = append(dirs, filepath.Join(dir, "forkd"))
	}
	return dirs
}

// Dir is the directory in which a new master makes its own.
func Dir() string { return own()[0] }

// CheckDir returns why Dir can't be used, although it may be written; nil also where it is
// missing.
func CheckDir() error {
	if dir := Dir(); dir == private() {
		if err := checkPrivate(dir); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// private is the last resort. Anybody may make it first, so it counts only while it
// is ours and closed to others.
func private() string { return "/tmp/forkd-" + strconv.Itoa(os.Geteuid()) }

// searchDirs returns the directories in which a client looks for apps, each once, in
// the order of docs/contract.md, Control socket.
func searchDirs() []string {
	candidates := append(own(), "/run/forkd")
	if os.Geteuid() == 0 {
		users, _ := filepath.Glob("/run/user/*/forkd") // the pattern is good: no error
		candidates = append(append(candidates, users...), privateOfAll("/tmp")...)
	}
	var dirs []string
	var seen []fs.FileInfo
	for _, dir := range candidates {
		info, err := os.Stat(dir)
		if err != nil || !info.IsDir() || dir == private() && checkPrivate(dir) != nil {
			continue
		}
		if !slices.ContainsFunc(seen, func(other fs.FileInfo) bool { return os.SameFile(info, other) }) {
			seen, dirs = append(seen, info), append(dirs, dir)
		}
	}
	return dirs
}

// privateOfAll returns the directories of every user that are like private, in a directory
// and in those that systemd makes there for PrivateTmp= (systemd.exec(5)): what a unit with
// User= and without RuntimeDirectory= uses.
func privateOfAll(tmp string) (dirs []string) {
	file, err := os.OpenFile(tmp, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	defer file.Close()
	const most = 16384 // anybody may make some
	names, _ := file.Readdirnames(most)
	const ours, systemds = "forkd-", "systemd-private-"
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, ours) && !strings.HasPrefix(name, systemds) })
	slices.Sort(names)
	for _, name := range names {
		dir := filepath.Join(tmp, name)
		if strings.HasPrefix(name, systemds) {
			if info, err := os.Lstat(dir); err == nil && info.IsDir() && (owner(info) == 0 || owner(info) == os.Geteuid()) { // else it is not systemd's
				dirs = append(dirs, privateOfAll(filepath.Join(dir, "tmp"))...)
			}
		} else {
			dirs = append(dirs, dir)
		}
	}
	return slices.DeleteFunc(dirs, func(dir string) bool { return checkPrivate(dir) != nil })
}

// makeDirs makes dir and its parents, and returns those that were missing, the
// outermost first. Workers of another user can reach files in them, whatever the
// umask, unless it is the private one.
func makeDirs(dir string) (made []string, err error) {
	mode := fs.FileMode(0o755)
	if dir == private() {
		mode = 0o700
	}
	if _, missing := os.Stat(dir); errors.Is(missing, fs.ErrNotExist) {
		if made, err = makeDirs(filepath.Dir(dir)); err != nil {
			return made, err
		}
		if err = os.Mkdir(dir, mode); err == nil {
			made = append(made, dir)
			err = chmodOwn(dir, mode) // mkdir(2) has applied the umask
		}
		if err != nil && !errors.Is(err, fs.ErrExist) { // else another master was faster
			return made, err
		}
	}
	if dir == private() {
		return made, checkPrivate(dir)
	}
	return made, nil
}

func chmodOwn(path string, mode fs.FileMode) error {
	dir, err := openOwn(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return os.Chmod(within(dir, ""), mode)
}

// openOwn opens a directory, unless it is a link or another user's: somebody who may
// write to its parent can put one there.
func openOwn(path string) (*os.File, error) {
	dir, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err == nil {
		if info, err := dir.Stat(); err == nil && owner(info) == os.Geteuid() {
			return dir, nil
		}
		dir.Close()
	} else if !errors.Is(err, syscall.ELOOP) && !errors.Is(err, syscall.ENOTDIR) {
		return nil, err
	}
	return nil, fmt.Errorf("cannot use %s: it is no directory of yours: choose another name, or set FORKD_RUNTIME_DIR", path)
}

// within is the path to a file of an open directory, or with "" to the directory,
// wherever that has been moved.
func within(dir *os.File, name string) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), name)
}

// reachable says why the members of a group (-1: none) can't reach files in a
// directory: they need search permission on it and all above it (path_resolution(7)).
func reachable(dir string, group int) error {
	if group < 0 {
		return nil
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for _, d := range []string{real, dir} {
		for above := ""; d != above; above, d = d, filepath.Dir(d) {
			if shut, err := shutTo(d, group); err != nil {
				return err
			} else if shut {
				return fmt.Errorf("cannot let group %d (control.group) use %s: its members may not enter %s: set FORKD_RUNTIME_DIR to a directory that they may", group, dir, d)
			}
		}
	}
	return nil
}

// shutTo reports whether a directory's mode keeps the members of a group out. An
// access list (acl(5)) may name them: with one, it is taken to.
func shutTo(dir string, group int) (bool, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return false, err
	}
	search := fs.FileMode(0o001)
	if int(info.Sys().(*syscall.Stat_t).Gid) == group {
		search = 0o010
	}
	if info.Mode().Perm()&search != 0 {
		return false, nil
	}
	n, err := unix.Getxattr(dir, "system.posix_acl_access", nil)
	return err != nil || n == 0, nil
}

// checkPrivate says why a directory in /tmp is not safe to use. Its name ends in its owner.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	switch uid := owner(info); {
	case !info.IsDir():
		return fmt.Errorf("cannot use %s: it is no directory: set FORKD_RUNTIME_DIR to one of yours", dir)
	case !strings.HasSuffix(dir, fmt.Sprintf("/forkd-%d", uid)):
		return fmt.Errorf("cannot use %s: it belongs to uid %d: set FORKD_RUNTIME_DIR to a directory of yours", dir, uid)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("cannot use %s: others may enter it: chmod 0700 %s", dir, dir)
	}
	return nil
}

func owner(info fs.FileInfo) int {
	return int(info.Sys().(*syscall.Stat_t).Uid)
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
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return err // has its own words
	}
	advice := "set FORKD_RUNTIME_DIR to a directory that you may write"
	switch {
	case errno == syscall.ENOSPC, errno == syscall.EDQUOT:
		advice = "free some space, or set FORKD_RUNTIME_DIR to another disk"
	case errno == syscall.EMFILE, errno == syscall.ENFILE:
		advice = "raise the limit on open files (ulimit -n)"
	}
	return fmt.Errorf("cannot use %s: %s: %s", path, errno.Error(), advice)
}
