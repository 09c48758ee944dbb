package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
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
// where it holds a pid and no master that lives has it locked. It is there with all
// of its content or not at all.
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
	if err == nil {
		err = p.replaceable()
	}
	if err == nil {
		err = unix.Renameat(dir, temporary, dir, p.name)
	}
	if err != nil {
		_ = unix.Unlinkat(dir, temporary, 0)
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *pidFile) content() []byte { return fmt.Appendln(nil, os.Getpid()) }

// replaceable says why what is there may not be replaced. Only a regular file is
// opened: a pipe would block.
func (p *pidFile) replaceable() error {
	path, err := unix.Openat(p.dir, p.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(path)
	var stat unix.Stat_t
	if err := unix.Fstat(path, &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("there is no regular file: remove it, or choose another pid_file")
	}
	old, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", path))
	if err != nil {
		return err
	}
	defer old.Close()
	text := make([]byte, maxPIDFile)
	n, _ := old.ReadAt(text, 0) // an error is the end of the file, or leaves it empty
	pid, err := strconv.Atoi(string(bytes.TrimSpace(text[:n])))
	if err != nil || pid <= 0 {
		return errors.New("there is a file that holds no pid: remove it, or choose another pid_file")
	}
	if errors.Is(unix.Flock(int(old.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK) {
		return fmt.Errorf("it is another app's, whose master runs (pid %d): choose another pid_file", pid)
	}
	return nil
}

// remove takes the file away, if it is this master's still.
func (p *pidFile) remove() {
	defer p.close()
	text := make([]byte, maxPIDFile)
	n, _ := p.file.ReadAt(text, 0)
	var named, opened unix.Stat_t
	if err := errors.Join(unix.Fstatat(p.dir, p.name, &named, unix.AT_SYMLINK_NOFOLLOW), unix.Fstat(int(p.file.Fd()), &opened)); err != nil {
		return
	}
	if bytes.Equal(text[:n], p.content()) && named.Dev == opened.Dev && named.Ino == opened.Ino {
		_ = unix.Unlinkat(p.dir, p.name, 0)
	}
}

func (p *pidFile) close() {
	p.file.Close()
	unix.Close(p.dir)
}
