package process

import (
	"errors"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CommandError says why a command can't be run.
type CommandError struct{ Command, Reason string }

func (e *CommandError) Error() string {
	return "cannot run " + e.Command + ": " + e.Reason
}

// defaultPath is used by execvp(3) without PATH.
const defaultPath = "/bin:/usr/bin"

// Resolve finds the program that execvp(3) would run: command itself, relative to dir, if
// it has a slash, else the first executable file of that name in pathEnv. The path is
// absolute if dir is. Errors are *CommandError.
func Resolve(command, dir, pathEnv string) (path string, err error) {
	if command == "" {
		return "", &CommandError{Command: "a worker", Reason: "the command is empty"}
	}
	if strings.Contains(command, "/") {
		path = under(dir, command)
		switch err := checkExecutable(path, nil); {
		case errors.Is(err, unix.ENOENT):
			return "", &CommandError{command, "command not found (no file " + path + ")"}
		case err != nil:
			return "", &CommandError{command, err.Error()}
		}
		return path, nil
	}
	if pathEnv == "" {
		pathEnv = defaultPath
	}
	var refused error
	for _, folder := range filepath.SplitList(pathEnv) {
		path = under(dir, filepath.Join(folder, command)) // "": the working directory
		err := checkExecutable(path, nil)
		if err == nil {
			return path, nil
		}
		if refused == nil && !errors.Is(err, unix.ENOENT) {
			refused = &CommandError{command, err.Error()}
		}
	}
	if refused == nil {
		refused = &CommandError{command, "command not found in PATH (" + pathEnv + ")"}
	}
	return "", refused
}

func under(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
