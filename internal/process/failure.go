package process

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
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
		text = fmt.Sprintf("cannot change to user %d, group %d: %v", spec.User.UID, spec.User.GID, errno)
		if errno == unix.EPERM {
			text += ": only root may change the user; leave out user and group, or start as root"
		}
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

// execWords explains what execve(2) leaves open: ENOENT and EACCES may mean the
// file, or the interpreter that the file names.
func execWords(spec *Spec, errno syscall.Errno) string {
	switch errno {
	case unix.ENOENT, unix.EACCES, unix.ENOTDIR:
		interpreter := interpreterOf(spec.Path)
		if interpreter == "" {
			break
		}
		if _, err := os.Stat(interpreter); err != nil {
			return fmt.Sprintf("its interpreter %s is missing", interpreter)
		}
		if unix.Access(interpreter, unix.X_OK) != nil {
			return fmt.Sprintf("its interpreter %s is not executable", interpreter)
		}
	case unix.ENOEXEC:
		return "it is no program for this machine, and no script that begins with #!"
	case unix.EAGAIN: // the new user has too many (execve(2))
		return noRoom
	case unix.E2BIG:
		return "its arguments and environment are too long"
	default:
	}
	return errno.Error()
}

// interpreterOf is what the kernel loads to run the file at path: the program in
// a script's first line, the loader of an ELF file, "" where there is none.
func interpreterOf(path string) string {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	head := bufio.NewReader(io.LimitReader(file, 256)) // BINPRM_BUF_SIZE
	if start, _ := head.Peek(2); bytes.Equal(start, []byte("#!")) {
		line, _ := head.ReadString('\n')
		if words := strings.Fields(line[2:]); len(words) > 0 {
			return words[0]
		}
		return ""
	}
	return loaderOf(file)
}

// loaderOf is the PT_INTERP of a 64-bit little-endian ELF file (elf(5)), ""
// where there is none. It does without debug/elf, which would bring DWARF and
// three kinds of decompression into the master.
func loaderOf(file io.ReaderAt) string {
	const class64, little, interp = 2, 1, 3
	var head [64]byte
	if _, err := file.ReadAt(head[:], 0); err != nil || string(head[:4]) != "\x7fELF" || head[4] != class64 || head[5] != little {
		return ""
	}
	order := binary.LittleEndian
	at, size := int64(order.Uint64(head[32:])), int64(order.Uint16(head[54:]))
	for range order.Uint16(head[56:]) {
		var segment [56]byte
		if _, err := file.ReadAt(segment[:], at); err != nil {
			return ""
		}
		if length := order.Uint64(segment[32:]); order.Uint32(segment[:]) == interp && length <= unix.PathMax {
			name := make([]byte, length)
			if _, err := file.ReadAt(name, int64(order.Uint64(segment[8:]))); err != nil {
				return ""
			}
			return string(bytes.TrimRight(name, "\x00"))
		}
		at += size
	}
	return ""
}
