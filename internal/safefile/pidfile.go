package safefile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// A PIDFile holds the master's pid at a path that the user chose (pid_file). It is
// locked (flock(2)) for as long as the master lives.
type PIDFile struct {
	dir  int // descriptor of its directory
	name string
	file *os.File
}

// maxPIDFile is more than a number with its line end has, in bytes.
const maxPIDFile = 64

// WritePIDFile writes this process's pid. It replaces a file only if that holds a
// pid and no living master has it locked. The file appears whole or not at all.
func WritePIDFile(path string) (p *PIDFile, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot write the pid file %s: %w", path, err)
		}
	}()
	dir, err := OpenDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	p = &PIDFile{dir: dir, name: filepath.Base(path)}
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

func (p *PIDFile) content() []byte { return fmt.Appendln(nil, os.Getpid()) }

// replaceable says why what is there may not be replaced. Only a regular file is
// opened: a pipe would block.
func (p *PIDFile) replaceable() error {
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

// Remove takes the file away, if it is still this master's.
func (p *PIDFile) Remove() {
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

func (p *PIDFile) close() {
	p.file.Close()
	unix.Close(p.dir)
}
