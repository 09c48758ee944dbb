// Package state keeps what must outlive a master in the app's state directory,
// STATE/APP (docs/contract.md, Control socket): what has happened, and what the next
// master starts from.
//
// A directory that is full, torn, read-only, missing or somebody else's costs history,
// never the app: the master's calls do not wait for a disk, and readers skip what they
// do not understand. The package must not decide anything.
package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/safefile"
)

// Root returns the directory for new state of this user, absolute; "" where the
// environment names none.
func Root() string {
	if all := Roots(); len(all) > 0 {
		return all[0]
	}
	return ""
}

// Roots returns the directories that may hold state of this user's apps, the one for a new
// master first.
func Roots() []string {
	const system = "/var/lib/forkd"
	all := control.DirsOf("FORKD_STATE_DIR", "STATE_DIRECTORY", system, "XDG_STATE_HOME")
	if home := os.Getenv("HOME"); filepath.IsAbs(home) {
		all = append(all, filepath.Join(home, ".local/state/forkd"))
	}
	if os.Geteuid() != 0 {
		all = append(all, system) // of units with User=
	}
	return all
}

// openDir opens STATE/APP of this user, and makes what is missing if create is set. Nobody
// else may write there: it holds what the next master runs.
func openDir(path string, create bool) (*os.Root, error) {
	parent, name := filepath.Split(path)
	if create {
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return nil, err
		}
	}
	above, err := safefile.OpenDir(parent)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: parent, Err: err}
	}
	defer unix.Close(above)
	failed := func(op string, err error) (*os.Root, error) {
		return nil, &os.PathError{Op: op, Path: path, Err: err}
	}
	if create {
		if err := unix.Mkdirat(above, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return failed("mkdir", err)
		}
	}
	dir, err := unix.Openat(above, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|followed(above, name), 0)
	if err != nil {
		return failed("open", err)
	}
	defer unix.Close(dir)
	var stat unix.Stat_t
	if err := unix.Fstat(dir, &stat); err != nil {
		return failed("stat", err)
	}
	if int(stat.Uid) != os.Geteuid() && os.Geteuid() != 0 || create && int(stat.Uid) != os.Geteuid() {
		return failed("open", fmt.Errorf("it belongs to uid %d", stat.Uid))
	}
	if create && stat.Mode&0o022 != 0 {
		if err := unix.Fchmod(dir, 0o700); err != nil {
			return failed("chmod", err)
		}
	}
	return os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir))
}

// followed is O_NOFOLLOW unless the entry is root's link: DynamicUser= of systemd makes
// one, STATE/APP -> private/APP.
func followed(above int, name string) int {
	var stat unix.Stat_t
	if err := unix.Fstatat(above, name, &stat, unix.AT_SYMLINK_NOFOLLOW); err == nil && stat.Mode&unix.S_IFMT == unix.S_IFLNK && stat.Uid == 0 {
		return 0
	}
	return unix.O_NOFOLLOW
}
