package output

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/safefile"
)

// Files is a log in files of bounded size: DIR/APP.log, and DIR/APP.log.1 and so on, which
// were that before. A file that is moved away, or goes with its directory, is made again,
// and a disk that is full costs lines, which are counted, and nothing else. The directory
// may belong to a user with fewer rights than the master has.
type Files struct {
	dir, name string
	maxSize   int64 // of one, in bytes
	maxFiles  int
	log       *slog.Logger // gets what goes wrong

	mu       sync.Mutex
	opened   bool
	parent   int // the directory, where opened
	fd       int // the file, where opened
	size     int64
	torn     bool      // it ends within a line
	lookAt   time.Time // when to look whether the file is still there, or to try again
	failedAt time.Time // when a failure was logged; zero: all is well
	lost     int       // lines since then
}

const (
	lookInterval = time.Second
	failInterval = time.Minute // between two lines about a failure that lasts
)

// NewFiles returns the files of an app in a directory, whose last part is made if it is
// missing. They are opened when there is something to write.
func NewFiles(dir, app string, maxSize int64, maxFiles int, log *slog.Logger) *Files {
	return &Files{dir: dir, name: FileName(app), maxSize: maxSize, maxFiles: maxFiles, log: log}
}

// FileName is the name of the newest of them.
func FileName(app string) string { return app + ".log" }

// Write takes whole lines.
func (f *Files) Write(lines []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if !now.Before(f.lookAt) {
		f.lookAt = now.Add(lookInterval)
		if f.opened && f.moved() {
			f.close()
		}
		if !f.opened {
			f.failed(f.open(), now)
		}
	}
	for rest := lines; len(rest) > 0; {
		if !f.opened {
			f.lost += bytes.Count(rest, []byte{'\n'})
			break
		}
		n := fitting(rest, f.maxSize-f.size)
		if n == 0 && f.size > 0 {
			f.failed(f.rotate(), now)
			continue
		}
		if n == 0 {
			n = bytes.IndexByte(rest, '\n') + 1
		}
		f.append(rest[:n], now)
		rest = rest[n:]
	}
	return len(lines), nil
}

// fitting is how many bytes of whole lines fit into a size.
func fitting(lines []byte, size int64) int {
	if int64(len(lines)) <= size {
		return len(lines)
	}
	return bytes.LastIndexByte(lines[:max(0, size)], '\n') + 1
}

// append writes lines that fit, and counts those that are lost.
func (f *Files) append(lines []byte, now time.Time) {
	if f.torn {
		if _, err := unix.Write(f.fd, []byte{'\n'}); err == nil {
			f.size++
			f.torn = false
		}
	}
	n, err := 0, error(nil)
	for n < len(lines) && err == nil {
		var more int
		if more, err = unix.Write(f.fd, lines[n:]); err == nil {
			n += more
		} else if errors.Is(err, unix.EINTR) {
			err = nil
		}
	}
	f.size += int64(n)
	if err != nil {
		f.torn = f.torn || n > 0 && lines[n-1] != '\n'
		f.lost += bytes.Count(lines[n:], []byte{'\n'})
	}
	f.failed(err, now)
}

// failed logs a failure, and when it is over how many lines it has cost.
func (f *Files) failed(err error, now time.Time) {
	switch {
	case err == nil && !f.failedAt.IsZero() && f.opened && now.Sub(f.failedAt) >= lookInterval:
		f.log.Warn("the log file is written again", "file", f.path(), "lost", f.lost)
		f.failedAt, f.lost = time.Time{}, 0
	case err != nil && (f.failedAt.IsZero() || now.Sub(f.failedAt) >= failInterval):
		f.log.Error("cannot write the log file: lines are lost", "file", f.path(), "why", err, "lost", f.lost)
		f.failedAt = now
	}
}

func (f *Files) path() string { return filepath.Join(f.dir, f.name) }

// open opens the directory and the file, and makes what is missing.
func (f *Files) open() error {
	dir, err := safefile.OpenDir(f.dir)
	if errors.Is(err, unix.ENOENT) {
		if dir, err = safefile.OpenDir(filepath.Dir(f.dir)); err != nil {
			return err
		}
		err = unix.Mkdirat(dir, filepath.Base(f.dir), 0o750)
		unix.Close(dir)
		if err != nil {
			return err
		}
		dir, err = safefile.OpenDir(f.dir)
	}
	if err != nil {
		return err
	}
	fd, err := openLog(dir, f.name, 0o640)
	if err != nil {
		unix.Close(dir)
		return err
	}
	size, err := unix.Seek(fd, 0, unix.SEEK_END)
	if err != nil {
		unix.Close(dir)
		unix.Close(fd)
		return err
	}
	f.parent, f.fd, f.size, f.opened, f.torn = dir, fd, size, true, torn(fd, size)
	return nil
}

// torn reports whether a file does not end with a newline: a master was killed, or the disk
// was full.
func torn(fd int, size int64) bool {
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd)) // it is open for writing alone
	if err != nil || size == 0 {
		return false
	}
	defer file.Close()
	last := make([]byte, 1)
	_, err = file.ReadAt(last, size-1)
	return err == nil && last[0] != '\n'
}

// moved reports whether the path leads to the open file no more.
func (f *Files) moved() bool {
	var named, opened unix.Stat_t
	if unix.Stat(f.path(), &named) != nil || unix.Fstat(f.fd, &opened) != nil {
		return true
	}
	return named.Dev != opened.Dev || named.Ino != opened.Ino
}

// rotate begins a new file. Where it can't, the old one is emptied: its size is promised.
func (f *Files) rotate() error {
	var err error // of the newest: then the file is the old one still
	for i := f.maxFiles - 1; i > 0; i-- {
		err = unix.Renameat(f.parent, numbered(f.name, i-1), f.parent, numbered(f.name, i))
	}
	if f.maxFiles == 1 {
		err = unix.Unlinkat(f.parent, f.name, 0)
	}
	f.close()
	if err := f.open(); err != nil {
		return err
	}
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	f.size, f.torn = 0, false
	return fmt.Errorf("it was emptied, as it can't be renamed: %w", errors.Join(err, unix.Ftruncate(f.fd, 0)))
}

// numbered is the name of the file that was the named one i files ago.
func numbered(name string, i int) string {
	if i == 0 {
		return name
	}
	return fmt.Sprintf("%s.%d", name, i)
}

// Reopen opens the file again under its name.
func (f *Files) Reopen() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.close()
	now := time.Now()
	f.lookAt = now.Add(lookInterval)
	err := f.open()
	f.failed(err, now)
	if err == nil {
		f.log.Info("log file opened again", "file", f.path())
	}
}

func (f *Files) close() {
	if f.opened {
		unix.Close(f.parent)
		unix.Close(f.fd)
		f.opened = false
	}
}

// Close closes the file, unless it is being written still: the disk hangs, and the file goes
// with the process.
func (f *Files) Close() {
	if !f.mu.TryLock() {
		return
	}
	defer f.mu.Unlock()
	f.close()
	f.lookAt = time.Now().Add(time.Hour)
}
