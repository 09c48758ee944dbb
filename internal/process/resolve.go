package process

import (
	"errors"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CommandError says why a command is nothing that can be run.
type CommandError struct{ Command, Reason string }

func (e *CommandError) Error() string {
	return "cannot run " + e.Command + ": " + e.Reason
}

// defaultPath is where execvp(3) looks without PATH.
const defaultPath = "/bin:/usr/bin"

// Resolve finds the program that execvp(3) would run: command itself, relative
// to dir, where it has a slash, else the first executable file of that name in
// the directories of pathEnv. The path that it returns is absolute where dir is.
// Errors are *CommandError.
func Resolve(command, dir, pathEnv string) (path string, err error) {
	if command == "" {
		return "", &CommandError{Command: "a worker", Reason: "the command is empty"}
	}
	if strings.Contains(command, "/") {
		path = under(dir, command)
		switch err := obstacle(path, nil); {
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
	for _, place := range filepath.SplitList(pathEnv) {
		path = under(dir, filepath.Join(place, command)) // "": the working directory
		err := obstacle(path, nil)
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
