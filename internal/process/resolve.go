package process

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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
		if _, err := os.Stat(path); err != nil && !strings.Contains(command, "/") {
			continue // a folder of PATH that this user may not enter is no reason
		}
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

// checkExecutable says why a user (nil: this process's) can't execute the file at path,
// as far as it can be found out: execve(2) has few errors for many causes. ENOENT: there
// is no file.
func checkExecutable(path string, who *Credential) error {
	if who == nil {
		who = &Credential{UID: uint32(os.Geteuid())}
	}
	if err := CheckReach(path, who); err != nil {
		return err
	}
	info, err := os.Stat(path)
	var mount unix.Statfs_t
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return unix.ENOENT
	case err != nil:
		return err
	case info.IsDir():
		return errors.New("it is a directory")
	case !info.Mode().IsRegular():
		return errors.New("it is not a regular file")
	case info.Mode()&0o111 == 0:
		return errors.New("not executable: chmod +x " + path)
	case unix.Statfs(path, &mount) == nil && mount.Flags&unix.ST_NOEXEC != 0:
		return fmt.Errorf("the file system of %s is mounted noexec: mount it with exec, or put the program elsewhere", path)
	case forbidden(path, who):
		return fmt.Errorf("user %d may not execute %s: chmod o+x %s, or give it to a group of that user", who.UID, path, path)
	}
	// A carriage return becomes part of the interpreter's name, or of the one that env
	// looks for.
	interpreter, line := interpreterOf(path)
	if strings.HasSuffix(interpreter, "\r") || filepath.Base(interpreter) == "env" && strings.HasSuffix(line, "\r") {
		return fmt.Errorf(`its first line ends in a carriage return, as Windows writes it: sed -i 's/\r$//' %s`, path)
	}
	return nil
}

// CheckReach says which directory of path, symlinks followed, a user (nil: this process's)
// may not enter.
func CheckReach(path string, who *Credential) error {
	if who == nil {
		return nil
	}
	real, _ := filepath.EvalSymlinks(path) // "" if it does not exist
	for _, path := range []string{path, real} {
		for i, c := range path {
			if c == '/' && forbidden(path[:i+1], who) {
				directory := filepath.Dir(path[:i+1])
				return fmt.Errorf("user %d may not enter the directory %s: chmod o+x %s, or put it elsewhere", who.UID, directory, directory)
			}
		}
	}
	return nil
}

// forbidden reports whether a user may not execute a file or enter a directory ("x/").
// For another user than this process's it looks at the mode only, not at an access
// control list (acl(5)).
func forbidden(path string, who *Credential) bool {
	if int(who.UID) == os.Geteuid() {
		return errors.Is(unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS), unix.EACCES)
	}
	var stat unix.Stat_t
	switch err := unix.Stat(path, &stat); {
	case err != nil:
		return false
	case who.UID == stat.Uid:
		return stat.Mode&0o100 == 0
	case who.GID == stat.Gid, slices.Contains(who.Groups, stat.Gid):
		return stat.Mode&0o010 == 0
	}
	return stat.Mode&0o001 == 0
}

// interpreterOf is what the kernel loads to run the file at path: the program in a
// script's first line, or the loader of an ELF file; "" if there is none. line is a
// script's first line after "#!".
func interpreterOf(path string) (interpreter, line string) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", ""
	}
	defer file.Close()
	head := make([]byte, 256)    // BINPRM_BUF_SIZE
	n, _ := file.ReadAt(head, 0) // an error is the end of the file
	line, _, _ = strings.Cut(string(head[:n]), "\n")
	line, script := strings.CutPrefix(line, "#!")
	if !script {
		return loaderOf(file), ""
	}
	line = strings.TrimLeft(line, " \t")
	interpreter, _, _ = strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
	return interpreter, line
}

// loaderOf is the PT_INTERP of a 64-bit little-endian ELF file (elf(5)); "": none. It
// does not use debug/elf, which would link DWARF and three decompressors.
func loaderOf(file io.ReaderAt) string {
	const class64, little, interp = 2, 1, 3
	var head [64]byte
	if _, err := file.ReadAt(head[:], 0); err != nil || string(head[:4]) != elfMagic || head[4] != class64 || head[5] != little {
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
			return strings.TrimRight(string(name), "\x00")
		}
		at += size
	}
	return ""
}
