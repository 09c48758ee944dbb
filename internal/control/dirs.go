package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// The files of an app in its directory, DIR/APP.
const (
	socketName = "control.sock"
	pidName    = "pid"
	lockName   = "lock"
)

// validName reports whether name is an app's: [A-Za-z0-9][A-Za-z0-9._-]{0,47}.
// No regexp: every exec shim of the binary would compile it first.
func validName(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return 0 < len(name) && len(name) <= 48
}

// own returns the directories that hold apps of this user, the one for a new
// master first (docs/contract.md, section 9).
func own() []string {
	var dirs []string
	if dir := os.Getenv("FORKD_RUNTIME_DIR"); dir != "" {
		if abs, err := filepath.Abs(dir); err == nil {
			dir = abs
		}
		dirs = append(dirs, dir)
	}
	// systemd.exec(5): a list with colons when the unit names several.
	if first, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":"); filepath.IsAbs(first) {
		dirs = append(dirs, filepath.Dir(filepath.Clean(first)))
	}
	if os.Geteuid() == 0 {
		dirs = append(dirs, "/run/forkd")
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		dirs = append(dirs, filepath.Join(dir, "forkd"))
	}
	return append(dirs, private())
}

// private is the directory of a user who has no better one. Anybody may make it
// first, so it counts only while it is ours and closed to others.
func private() string { return "/tmp/forkd-" + strconv.Itoa(os.Geteuid()) }

// Dirs returns the directories in which a client looks for apps, each once, in
// the order of docs/contract.md, section 9.
func Dirs() []string {
	candidates := append(own(), "/run/forkd")
	if os.Geteuid() == 0 {
		users, _ := filepath.Glob("/run/user/*/forkd") // the pattern is good: no error
		candidates = append(candidates, users...)
	}
	var dirs []string
	var seen []fs.FileInfo
next:
	for _, dir := range candidates {
		info, err := os.Stat(dir)
		if err != nil || !info.IsDir() || dir == private() && checkPrivate(dir) != nil {
			continue
		}
		for _, other := range seen {
			if os.SameFile(info, other) {
				continue next
			}
		}
		seen, dirs = append(seen, info), append(dirs, dir)
	}
	return dirs
}

// makeDirs makes dir and its parents, and returns those that were missing, the
// outermost first.
func makeDirs(dir string) (made []string, err error) {
	mode := fs.FileMode(0o755)
	if dir == private() {
		mode = 0o700
	}
	var missing []string
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		missing = append([]string{d}, missing...)
	}
	for _, d := range missing {
		switch err := os.Mkdir(d, mode); {
		case err == nil:
			made = append(made, d)
		case !errors.Is(err, fs.ErrExist): // another master was faster
			removeDirs(made)
			return nil, err
		}
	}
	if dir == private() {
		return made, checkPrivate(dir)
	}
	return made, nil
}

// removeDirs removes directories that are empty, the innermost first. Others
// may use them by now, and then they stay.
func removeDirs(dirs []string) {
	for _, dir := range slices.Backward(dirs) {
		_ = syscall.Rmdir(dir) // os.Remove would take a file too
	}
}

// checkPrivate says why a directory in /tmp is not safe to use.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	switch uid := owner(info); {
	case !info.IsDir():
		return fmt.Errorf("cannot use %s: it is no directory: set FORKD_RUNTIME_DIR to one of yours", dir)
	case uid != os.Geteuid():
		return fmt.Errorf("cannot use %s: it belongs to uid %d: set FORKD_RUNTIME_DIR to a directory of yours", dir, uid)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("cannot use %s: others may enter it: chmod 0700 %s", dir, dir)
	}
	return nil
}

func owner(info fs.FileInfo) int {
	return int(info.Sys().(*syscall.Stat_t).Uid)
}
