package process

import (
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

// obstacle says what keeps a user (nil: this process's) from executing the file at
// path, as far as a look can tell: the kernel's errors are few, and each has many
// causes (execve(2)). ENOENT: there is no file.
func obstacle(path string, who *Credential) error {
	if err := reach(path, who); err != nil {
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
		return fmt.Errorf("user %d may not execute %s: chmod o+x %s, or give it to a group of that user", uid(who), path, path)
	case windowsLine(path):
		return fmt.Errorf(`its first line ends in a carriage return, as Windows writes it: sed -i 's/\r$//' %s`, path)
	}
	return nil
}

// reach says which directory on the way to path, symlinks followed, a user may not
// enter. nil: none.
func reach(path string, who *Credential) error {
	real, _ := filepath.EvalSymlinks(path) // "" where it is not there
	for _, path := range []string{path, real} {
		for i, c := range path {
			if c == '/' && forbidden(path[:i+1], who) {
				directory := filepath.Dir(path[:i+1])
				return fmt.Errorf("user %d may not enter the directory %s: chmod o+x %s, or put the program elsewhere", uid(who), directory, directory)
			}
		}
	}
	return nil
}

// forbidden reports whether a user may not execute a file or enter a directory, "x/".
// Of a user that this process is not, it knows the mode, and no access control list
// (acl(5)).
func forbidden(path string, who *Credential) bool {
	if who == nil || int(who.UID) == os.Geteuid() {
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

func uid(who *Credential) int {
	if who == nil {
		return os.Geteuid()
	}
	return int(who.UID)
}

// windowsLine reports whether a script's first line ends in a carriage return, which
// then is part of a name that there is not: the interpreter's, or the one that env
// looks for.
func windowsLine(path string) bool {
	interpreter := interpreterOf(path)
	return strings.HasSuffix(interpreter, "\r") || filepath.Base(interpreter) == "env" && strings.HasSuffix(firstLine(path), "\r")
}

// firstLine is a script's, without the #!, as far as the kernel reads it; "" where
// path leads to none that can be read.
func firstLine(path string) string {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer file.Close()
	head := make([]byte, 256)    // BINPRM_BUF_SIZE
	n, _ := file.ReadAt(head, 0) // an error is the end of the file
	line, _, _ := strings.Cut(string(head[:n]), "\n")
	line, script := strings.CutPrefix(line, "#!")
	if !script {
		return ""
	}
	return strings.TrimLeft(line, " \t")
}

// interpreterOf is what the kernel loads to run the file at path: the program in
// a script's first line, as it stands there, the loader of an ELF file, "" where
// there is none.
func interpreterOf(path string) string {
	if line := firstLine(path); line != "" {
		line, _, _ = strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
		return line
	}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer file.Close()
	return loaderOf(file)
}

// loaderOf is the PT_INTERP of a 64-bit little-endian ELF file (elf(5)), ""
// where there is none. It does without debug/elf, which would bring DWARF and
// three kinds of decompression into the master.
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
