package output

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/safefile"
)

// A LogFile is an output that is a regular file, with its path at the start.
type LogFile struct {
	fd   int
	path string
}

// LogFiles finds those of the outputs that are regular files.
func LogFiles(outputs ...*os.File) []LogFile {
	var files []LogFile
	for _, f := range outputs {
		info, err := f.Stat()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err == nil && !strings.HasSuffix(path, " (deleted)") {
			files = append(files, LogFile{int(f.Fd()), path})
		}
	}
	return files
}

// Reopen opens the files again under their names, after a log rotation has moved
// them away. Workers that inherited one write to the old until they are rolled.
func Reopen(files []LogFile, kept *Log, log *slog.Logger) {
	if kept.files != nil {
		kept.files.Reopen()
	} else if len(files) == 0 {
		log.Info("there are no log files to open again: forkd writes to no file")
	}
	for _, f := range files {
		if err := f.reopen(); err != nil {
			log.Error("cannot open the log file again: the old one is kept", "file", f.path, "why", err)
			continue
		}
		log.Info("log file opened again", "file", f.path)
	}
}

func (f LogFile) reopen() error {
	dir, err := safefile.OpenDir(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fd, err := openLog(dir, filepath.Base(f.path), 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	flags := unix.O_CLOEXEC
	if f.fd <= 2 {
		flags = 0 // the standard ones are inherited
	}
	return unix.Dup3(fd, f.fd, flags)
}

// openLog opens a file to append to, or makes it. It takes only a regular file, and follows
// no link: the directory may belong to a user with fewer rights than the master has. It
// never blocks.
func openLog(dir int, name string, mode uint32) (fd int, err error) {
	const how = unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY
	if fd, err = unix.Openat(dir, name, how, mode); err != nil {
		return -1, err
	}
	var stat unix.Stat_t
	err = unix.Fstat(fd, &stat)
	if err == nil && (stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Nlink != 1) {
		err = errors.New("it is no file of its own there: a regular file without other links is needed")
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
