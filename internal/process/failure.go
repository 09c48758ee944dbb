package process

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// step is what the shim was doing when it failed.
type step byte

const (
	stepPlan step = iota + 1
	stepUmask
	stepDir
	stepOOM
	stepCapabilities
	stepUser
	stepSignals
	stepParent
	stepDescriptors
	stepExec
)

// failureSize is the length of a failure in the status pipe: the step, and
// errno in the machine's own order.
const failureSize = 5

// maxWords bounds what is read of a shim's failure: the Go runtime's is text.
const maxWords = 1 << 10

// noRoom is EAGAIN of fork(2), clone(2) and execve(2).
const noRoom = "the limit on processes is reached: raise pids.max of the cgroup (TasksMax= in a unit) or the user's (LimitNPROC=, ulimit -u)"

func encodeFailure(at step, errno syscall.Errno) []byte {
	return binary.NativeEndian.AppendUint32([]byte{byte(at)}, uint32(errno))
}

// StartError says why a program could not be started. Errno is the kernel's
// word for it.
type StartError struct {
	Path  string
	Errno syscall.Errno
	text  string
}

func (e *StartError) Error() string { return e.text }

// Unwrap gives the kernel's error.
func (e *StartError) Unwrap() error { return e.Errno }

// startError puts a failure that the shim told into words.
func startError(spec *Spec, told []byte) error {
	if len(told) != failureSize {
		return launcherError(spec, string(told))
	}
	errno := syscall.Errno(binary.NativeEndian.Uint32(told[1:]))
	var text string
	switch step(told[0]) {
	case stepDir:
		text = fmt.Sprintf("cannot enter directory %s: %v", spec.Dir, errno)
	case stepUser:
		text = fmt.Sprintf("cannot change to user %d, group %d: %s", spec.User.UID, spec.User.GID, userWords(errno))
	case stepExec:
		text = fmt.Sprintf("cannot execute %s: %s", spec.Path, execWords(spec, errno))
	case stepPlan, stepUmask, stepOOM, stepCapabilities, stepSignals, stepParent, stepDescriptors:
		text = fmt.Sprintf("cannot start %s: cannot %s: %v", spec.Path, step(told[0]), errno)
	default:
		text = fmt.Sprintf("cannot start %s: its launcher failed at an unknown step", spec.Path)
	}
	return &StartError{Path: spec.Path, Errno: errno, text: text}
}

// launcherError is what the Go runtime said that could not run the shim. It has
// one line for a thread that it can't have, with cgo another.
func launcherError(spec *Spec, words string) error {
	if strings.Contains(words, "failed to create new OS thread") || strings.Contains(words, "pthread_create failed") {
		return &StartError{Path: spec.Path, Errno: unix.EAGAIN, text: fmt.Sprintf("cannot start %s: %s", spec.Path, noRoom)}
	}
	line, _, _ := strings.Cut(words, "\n")
	return fmt.Errorf("cannot start %s: its launcher failed: %s", spec.Path, line)
}

// String completes "cannot ...".
func (s step) String() string {
	return map[step]string{
		stepPlan:         "read its plan",
		stepUmask:        "set its umask",
		stepDir:          "enter its directory",
		stepOOM:          "reset its OOM score",
		stepCapabilities: "drop the master's capabilities",
		stepUser:         "change its user",
		stepSignals:      "reset its signals",
		stepParent:       "tie it to its master",
		stepDescriptors:  "close the master's descriptors",
		stepExec:         "execute it",
	}[s]
}

// userWords explains why the user can't be changed: only for root, and in a user
// namespace for those alone whom it maps (user_namespaces(7)).
func userWords(errno syscall.Errno) string {
	denied, _ := os.ReadFile("/proc/self/setgroups")
	why := ""
	switch {
	case errno == unix.EPERM && os.Geteuid() != 0:
		why = ": only root may change the user; leave out user and group, or start as root"
	case errno == unix.EPERM && strings.TrimSpace(string(denied)) == "deny":
		why = ": this user namespace forbids setgroups: map a range of groups (newgidmap), or leave out user and group"
	case errno == unix.EPERM:
		why = ": this root is without CAP_SETUID or CAP_SETGID, as in a container that drops them"
	case errno == unix.EINVAL:
		why = ": this user namespace has no such number: see /proc/self/uid_map and gid_map"
	case errno == unix.EAGAIN: // setuid(2)
		why = ": " + noRoom
	}
	return errno.Error() + why
}

// execWords explains what execve(2) leaves open.
func execWords(spec *Spec, errno syscall.Errno) string {
	switch errno {
	case unix.ENOENT, unix.EACCES, unix.ENOTDIR:
		if why := outOfReach(spec); why != "" {
			return why
		}
	case unix.ENOEXEC:
		return "it is no program for this machine, and no script that begins with #!"
	case unix.EAGAIN: // the new user has too many (execve(2))
		return noRoom
	case unix.E2BIG:
		return "its arguments and environment are too long"
	case unix.ETXTBSY:
		return "it is open for writing: wait until it is written, and replace a program by rename, not in place"
	default:
	}
	return errno.Error()
}

// outOfReach says what is wrong with the program or with its interpreter, "" for
// nothing that can be seen. What is kept open needs no path.
func outOfReach(spec *Spec) string {
	if spec.File == nil {
		if err := obstacle(spec.Path, spec.User); err != nil {
			return err.Error()
		}
	}
	interpreter := interpreterOf(spec.Path)
	if interpreter == "" {
		return ""
	}
	err := obstacle(interpreter, spec.User)
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Sprintf("its interpreter %s is missing", interpreter)
	case err != nil:
		return fmt.Sprintf("its interpreter %s can't be run: %v", interpreter, err)
	}
	return ""
}
