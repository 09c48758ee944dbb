package process

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CommandError says why a command is nothing that can be run.
type CommandError struct {
	Command string
	Found   bool   // a file is there, but it can't be executed
	Path    string // where, "" where none was found
	reason  string
}

func (e *CommandError) Error() string {
	return "cannot run " + e.Command + ": " + e.reason
}

// defaultPath is where execvp(3) looks without PATH.
const defaultPath = "/bin:/usr/bin"

// Resolve finds the program that execvp(3) would run: command itself, relative
// to dir, where it has a slash, else the first executable file of that name in
// the directories of pathEnv. The path that it returns is absolute where dir is.
// Errors are *CommandError.
func Resolve(command, dir, pathEnv string) (path string, err error) {
	if command == "" {
		return "", &CommandError{Command: "a worker", reason: "the command is empty"}
	}
	if strings.Contains(command, "/") {
		path = under(dir, command)
		if reason := unfit(path); reason != nil {
			return "", &CommandError{
				Command: command,
				Found:   !errors.Is(reason, fs.ErrNotExist),
				Path:    path,
				reason:  reasonWords(reason, path),
			}
		}
		return path, nil
	}
	if pathEnv == "" {
		pathEnv = defaultPath
	}
	refused := &CommandError{Command: command, reason: "command not found in PATH (" + pathEnv + ")"}
	for _, place := range filepath.SplitList(pathEnv) {
		path = under(dir, filepath.Join(place, command)) // "": the working directory
		reason := unfit(path)
		if reason == nil {
			return path, nil
		}
		if !refused.Found && !errors.Is(reason, fs.ErrNotExist) {
			refused.Found, refused.Path = true, path
			refused.reason = reasonWords(reason, path)
		}
	}
	return "", refused
}

func under(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

var (
	errDirectory     = errors.New("it is a directory")
	errNotFile       = errors.New("it is not a regular file")
	errNotExecutable = errors.New("not executable")
)

// unfit says why the file at path can't be executed by this process.
func unfit(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return fs.ErrNotExist
	case err != nil:
		return err
	case info.IsDir():
		return errDirectory
	case !info.Mode().IsRegular():
		return errNotFile
	case unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS) != nil:
		return errNotExecutable
	}
	return nil
}

func reasonWords(reason error, path string) string {
	var pathErr *fs.PathError
	switch {
	case errors.Is(reason, fs.ErrNotExist):
		return "command not found (no file " + path + ")"
	case errors.Is(reason, errNotExecutable):
		return "not executable: chmod +x " + path
	case errors.As(reason, &pathErr):
		return pathErr.Err.Error()
	}
	return reason.Error()
}
