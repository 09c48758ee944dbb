package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/process"
)

// pidFile is a file with the master's pid where somebody else wants it: pid_file.
// Its directory may be another user's, who may put anything in its place at any
// moment. It is locked (flock(2)) for as long as the master lives.
type pidFile struct {
	dir  int // descriptor of its directory
	name string
	file *os.File
}

// maxPIDFile is more than a number with its line end has, in bytes.
const maxPIDFile = 64

// writePIDFile writes this process's pid. A file that is there already is replaced
// where it holds the number of a process that has ended, and of no other: then the
// error says what it is. The file is there with all of its content or not at all.
func writePIDFile(path string) (p *pidFile, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot write the pid file %s: %w", path, err)
		}
	}()
	dir, err := openDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	p = &pidFile{dir: dir, name: filepath.Base(path)}
	temporary := fmt.Sprintf(".%s.%d", p.name, os.Getpid())
	// Of a master with this pid that was killed, in another pid namespace maybe.
	_ = unix.Unlinkat(dir, temporary, 0)
	fd, err := unix.Openat(dir, temporary, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		unix.Close(dir)
		return nil, err
	}
	p.file = os.NewFile(uintptr(fd), path)
	_, err = p.file.Write(p.content())
	_ = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) // not every file system can
	for again := true; again && err == nil; {
		again, err = p.put(temporary)
	}
	if err != nil {
		_ = unix.Unlinkat(dir, temporary, 0)
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *pidFile) content() []byte { return fmt.Appendln(nil, os.Getpid()) }

// put gives the file its name. It is to be called again where another master was
// faster.
func (p *pidFile) put(temporary string) (again bool, err error) {
	old, err := p.open()
	if errors.Is(err, unix.ENOENT) {
		err = unix.Renameat2(p.dir, temporary, p.dir, p.name, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // not on this file system
			err = unix.Renameat(p.dir, temporary, p.dir, p.name)
		}
		return errors.Is(err, unix.EEXIST), ignore(err, unix.EEXIST)
	}
	if err != nil {
		return false, err
	}
	defer old.Close()
	if err := abandoned(old); err != nil {
		return false, err
	}
	if !p.names(old) {
		return true, nil
	}
	return false, unix.Renameat(p.dir, temporary, p.dir, p.name)
}

func ignore(err, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}

// open opens what is there, and only a regular file: a device may mind.
func (p *pidFile) open() (*os.File, error) {
	fd, err := unix.Openat(p.dir, p.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("there is no regular file: remove it, or choose another pid_file")
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// abandoned locks a pid file, and says why it is not one that can be replaced.
func abandoned(f *os.File) error {
	text := make([]byte, maxPIDFile)
	n, _ := f.ReadAt(text, 0) // an error is the end of the file, or leaves it empty
	pid, err := strconv.Atoi(string(bytes.TrimSpace(text[:n])))
	if err != nil || pid <= 0 {
		return errors.New("there is a file that holds no pid: remove it, or choose another pid_file")
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) && !isMaster(pid, f) {
		return nil
	}
	return fmt.Errorf("it is another app's, whose master runs (pid %d): choose another pid_file", pid)
}

// isMaster reports whether a forkd that has written the file, with no lock on it,
// lives still: one that began after that has got the number by chance.
func isMaster(pid int, f *os.File) bool {
	own, err := os.ReadFile("/proc/self/comm")
	if err != nil || pid == os.Getpid() {
		return false
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || !bytes.Equal(comm, own) {
		return false
	}
	info, err := f.Stat()
	const exact = 2 * time.Second // the start time is
	return err == nil && !info.ModTime().Before(process.StartedAt(pid).Add(-exact))
}

// names reports whether the name leads to the open file.
func (p *pidFile) names(f *os.File) bool {
	var named, opened unix.Stat_t
	return unix.Fstatat(p.dir, p.name, &named, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		unix.Fstat(int(f.Fd()), &opened) == nil && named.Dev == opened.Dev && named.Ino == opened.Ino
}

// remove takes the file away, if it is this master's still.
func (p *pidFile) remove() {
	text := make([]byte, maxPIDFile)
	n, _ := p.file.ReadAt(text, 0)
	if bytes.Equal(text[:n], p.content()) && p.names(p.file) {
		_ = unix.Unlinkat(p.dir, p.name, 0)
	}
	p.close()
}

func (p *pidFile) close() {
	p.file.Close()
	unix.Close(p.dir)
}
