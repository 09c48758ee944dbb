package process

import (
	"cmp"
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
	paths, missing := []string{under(dir, command)}, "command not found (no file "+under(dir, command)+")"
	if !strings.Contains(command, "/") {
		pathEnv = cmp.Or(pathEnv, defaultPath)
		paths, missing = nil, "command not found in PATH ("+pathEnv+")"
		for _, folder := range filepath.SplitList(pathEnv) {
			paths = append(paths, under(dir, filepath.Join(folder, command))) // "": the working directory
		}
	}
	refused := ""
	for _, path := range paths {
		err := checkExecutable(path, nil)
		if err == nil {
			return path, nil
		}
		if refused == "" && !errors.Is(err, unix.ENOENT) {
			refused = err.Error()
		}
	}
	return "", &CommandError{command, cmp.Or(refused, missing)}
}

func under(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
