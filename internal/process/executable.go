package process

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Executable is the program of a generation, kept open, so that a rollback can
// run what ran before. Call Close when no slot can go back to it.
type Executable struct {
	path string
	file *os.File
	was  os.FileInfo // when it was opened
	elf  bool
}

// OpenExecutable keeps the program at path, which Resolve has given.
func OpenExecutable(path string) (*Executable, error) {
	file, elf, err := openProgram(path)
	if err != nil {
		return nil, fmt.Errorf("cannot keep the program for a rollback: %w", err)
	}
	was, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot keep the program for a rollback: %w", err)
	}
	return &Executable{path: path, file: file, was: was, elf: elf}, nil
}

func openProgram(path string) (file *os.File, elf bool, err error) {
	file, err = os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		// Executable but not readable: no script, since its interpreter must
		// read it. O_PATH is enough to run it by descriptor (open(2)).
		file, err = os.OpenFile(path, unix.O_PATH, 0)
		return file, true, err
	}
	if err != nil {
		return nil, false, err
	}
	magic := make([]byte, len(elfMagic))
	_, err = io.ReadFull(io.NewSectionReader(file, 0, int64(len(magic))), magic)
	return file, err == nil && string(magic) == elfMagic, nil
}

const elfMagic = "\x7fELF"

// Path is where it was opened.
func (e *Executable) Path() string { return e.path }

// Unchanged reports whether the path still leads to this file, and the file is
// as it was: inode, size and time of modification.
func (e *Executable) Unchanged() bool {
	now, err := os.Stat(e.path)
	return err == nil && os.SameFile(now, e.was) && e.sameContent(now)
}

// Intact reports whether the kept file is as it was, whatever the path leads to.
func (e *Executable) Intact() bool {
	now, err := e.file.Stat()
	return err == nil && e.sameContent(now)
}

func (e *Executable) sameContent(now os.FileInfo) bool {
	return now.Size() == e.was.Size() && now.ModTime().Equal(e.was.ModTime())
}

// Restore says how to run what ran before: by path (file is nil), by the kept
// file, as Spec.Path and Spec.File, or, with an error that says why, not at all.
// The file stays the Executable's.
func (e *Executable) Restore() (path string, file *os.File, err error) {
	switch {
	case e.Unchanged():
		return e.path, nil, nil
	case !e.Intact():
		return "", nil, fmt.Errorf("cannot go back to %s: it was overwritten in place at %s: replace a program by rename",
			e.path, e.modified())
	case !e.elf:
		return "", nil, fmt.Errorf("cannot go back to %s: it was replaced, and a script can only be run by its path: deploy by switching a directory", e.path)
	}
	return e.path, e.file, nil
}

func (e *Executable) modified() string {
	now, err := e.file.Stat()
	if err != nil {
		return "an unknown time"
	}
	return now.ModTime().Format(time.RFC3339)
}

// Close gives the file up.
func (e *Executable) Close() error { return e.file.Close() }
