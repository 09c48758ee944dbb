package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Executable is the program of a generation, kept open so that a rollback can run it.
type Executable struct {
	path string
	file *os.File
	was  os.FileInfo // when it was opened
	elf  bool
}

// OpenExecutable opens the program at path, which Resolve has returned. Call Close when
// no slot can go back to it.
func OpenExecutable(path string) (*Executable, error) {
	e := &Executable{path: path}
	var err error
	e.file, err = os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		// Not readable: so it is no script, which its interpreter must read. O_PATH is
		// enough to run it by descriptor (open(2)).
		e.file, err = os.OpenFile(path, unix.O_PATH, 0)
		e.elf = true
	} else if err == nil {
		magic := make([]byte, len(elfMagic))
		n, _ := e.file.ReadAt(magic, 0)
		e.elf = string(magic[:n]) == elfMagic
	}
	if err == nil {
		e.was, err = e.file.Stat()
	}
	if err != nil {
		_ = e.file.Close() // it may be nil
		return nil, fmt.Errorf("cannot keep the program for a rollback: %w", err)
	}
	return e, nil
}

const elfMagic = "\x7fELF"

// Path is where it was opened.
func (e *Executable) Path() string { return e.path }

// same reports whether a file's size and time of modification are the program's.
func (e *Executable) same(now os.FileInfo) bool {
	return now.Size() == e.was.Size() && now.ModTime().Equal(e.was.ModTime())
}

// Restore returns Spec.Path and Spec.File to run the same program again: by path (file is
// nil) or by the open file, which stays the Executable's. The error says why neither is
// possible.
func (e *Executable) Restore() (path string, file *os.File, err error) {
	if now, err := os.Stat(e.path); err == nil && os.SameFile(now, e.was) && e.same(now) {
		return e.path, nil, nil
	}
	now, err := e.file.Stat()
	switch {
	case err != nil:
		return "", nil, fmt.Errorf("cannot go back to %s: %w", e.path, err)
	case !e.same(now):
		return "", nil, fmt.Errorf("cannot go back to %s: it was overwritten in place at %s: replace a program by rename",
			e.path, now.ModTime().Format(time.RFC3339))
	case !e.elf:
		return "", nil, fmt.Errorf("cannot go back to %s: it was replaced, and a script can only be run by its path: deploy by switching a directory", e.path)
	}
	return e.path, e.file, nil
}

// Close closes the file.
func (e *Executable) Close() error { return e.file.Close() }
