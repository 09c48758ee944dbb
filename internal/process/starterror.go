package process

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What a child does before its program, completing "cannot ...".
const (
	capturing         = "have its calls captured"
	closing           = "close the master's descriptors"
	dropping          = "drop the master's capabilities"
	enteringGroup     = "enter its control group"
	tyingToMaster     = "tie it to its master"
	enteringDirectory = "enter its directory"
	changingUser      = "change its user"
	executing         = "execute it"
)

// noRoom explains EAGAIN of fork(2), clone(2), setuid(2) and execve(2).
const noRoom = "the limit on processes is reached: raise pids.max of the cgroup (TasksMax= in a unit) or the user's (LimitNPROC=, ulimit -u)"

// StartError says why a program could not be started. Errno is the kernel's error. Final:
// there is no such program, or the user may not execute it, or it is none.
type StartError struct {
	Errno syscall.Errno
	Final bool
	text  string
}

func (e *StartError) Error() string { return e.text }

// Unwrap returns Errno.
func (e *StartError) Unwrap() error { return e.Errno }

func limitError(spec *Spec) error {
	return &StartError{Errno: unix.EAGAIN, text: fmt.Sprintf("cannot start %s: %s", spec.Path, noRoom)}
}

// startError explains which call of a child has failed.
func startError(spec *Spec, doing string, errno syscall.Errno) error {
	final := false
	text := fmt.Sprintf("cannot start %s: cannot %s: %v", spec.Path, doing, errno)
	switch doing {
	case enteringDirectory:
		text = fmt.Sprintf("cannot enter directory %s: %v", spec.Dir, errno)
	case changingUser:
		text = fmt.Sprintf("cannot change to user %d, group %d: %v%s", spec.User.UID, spec.User.GID, errno, explainUser(errno))
	case executing:
		text = fmt.Sprintf("cannot execute %s: %s", spec.Path, explainExec(spec, errno))
		final = slices.Contains([]syscall.Errno{unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.ENOEXEC}, errno)
	}
	return &StartError{errno, final, text}
}

// explainUser says why the user can't be changed (user_namespaces(7)).
func explainUser(errno syscall.Errno) string {
	denied, _ := os.ReadFile("/proc/self/setgroups")
	switch {
	case errno == unix.EPERM && os.Geteuid() != 0:
		return ": only root may change the user; leave out user and group, or start as root"
	case errno == unix.EPERM && strings.TrimSpace(string(denied)) == "deny":
		return ": this user namespace forbids setgroups: map a range of groups (newgidmap), or leave out user and group"
	case errno == unix.EPERM:
		return ": this root is without CAP_SETUID or CAP_SETGID, as in a container that drops them"
	case errno == unix.EINVAL:
		return ": this user namespace has no such number: see /proc/self/uid_map and gid_map"
	case errno == unix.EAGAIN:
		return ": " + noRoom
	}
	return ""
}

// explainExec finds the cause of an error of execve(2).
func explainExec(spec *Spec, errno syscall.Errno) string {
	switch errno {
	case unix.ENOENT, unix.EACCES, unix.ENOTDIR:
		if why := explainPath(spec); why != "" {
			return why
		}
	case unix.ENOEXEC:
		return "it is no program for this machine, and no script that begins with #!"
	case unix.EAGAIN: // the new user has too many
		return noRoom
	case unix.E2BIG:
		return "its arguments and environment are too long"
	case unix.ETXTBSY:
		return "it is open for writing: wait until it is written, and replace a program by rename, not in place"
	default:
	}
	return errno.Error()
}

// explainPath says what is wrong with the program or its interpreter; "": no fault found.
func explainPath(spec *Spec) string {
	if spec.File == nil {
		if err := checkExecutable(spec.Path, spec.User); err != nil {
			return err.Error()
		}
	}
	interpreter, _ := interpreterOf(spec.Path)
	if interpreter == "" {
		return ""
	}
	err := checkExecutable(interpreter, spec.User)
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Sprintf("its interpreter %s is missing", interpreter)
	case err != nil:
		return fmt.Sprintf("its interpreter %s can't be run: %v", interpreter, err)
	}
	return ""
}
