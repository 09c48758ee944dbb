package process

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Why a program can't be executed. The kernel's errors are few, and each has many
// causes (execve(2)): these are told apart by a look, when it has failed.

// obstacle says what keeps a user (nil: this process's) from executing the file at
// path: it is not there, or a directory, its mode, its mount or a carriage return is
// in the way. nil: none of these. Where the file is not there the error is an fs.ErrNotExist.
func obstacle(path string, who *Credential) error {
	if err := reach(path, who); err != nil {
		return err
	}
	info, err := os.Stat(path)
	var mount unix.Statfs_t
	switch {
	case errors.Is(err, unix.ENOENT):
		return absent(path, "no file ")
	case err != nil:
		return unlooked(path, err)
	case info.IsDir():
		return errors.New("it is a directory")
	case !info.Mode().IsRegular():
		return errors.New("it is not a regular file")
	case info.Mode()&0o111 == 0:
		return errors.New("not executable: chmod +x " + path)
	case unix.Statfs(path, &mount) == nil && mount.Flags&unix.ST_NOEXEC != 0:
		return fmt.Errorf("the file system of %s is mounted noexec: mount it with exec, or put the program elsewhere", path)
	case !may(path, who):
		return fmt.Errorf("user %d may not execute %s: chmod o+x %s, or give it to a group of that user", uid(who), path, path)
	}
	return windowsLine(path)
}

// windowsLine says that a script's first line ends in a carriage return, which then is
// part of a name that there is not: the interpreter's, or the one that env looks for.
func windowsLine(path string) error {
	file, head, err := headOf(path)
	if err != nil {
		return nil //nolint:nilerr // who may not read it may run it, unless it is a script
	}
	file.Close()
	line, _, _ := bytes.Cut(head, []byte("\n"))
	if !bytes.HasPrefix(line, []byte("#!")) || !bytes.HasSuffix(line, []byte("\r")) {
		return nil
	}
	interpreter := interpreterOf(path)
	if _, err := os.Stat(interpreter); filepath.Base(interpreter) == "env" || err != nil && strings.HasSuffix(interpreter, "\r") {
		return fmt.Errorf(`its first line ends in a carriage return, as Windows writes it: sed -i 's/\r$//' %s`, path)
	}
	return nil
}

// reach says which directory on the way to path is not there, or may not be
// entered. nil: none.
func reach(path string, who *Credential) error {
	if err := enter(path, who); err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil || real == filepath.Dir(path) {
		return nil //nolint:nilerr // path is not there, which is the caller's to say
	}
	return enter(filepath.Join(real, filepath.Base(path)), who)
}

// enter is reach but for what stands behind symlinks.
func enter(path string, who *Credential) error {
	for i, c := range path {
		if c != '/' || i == len(path)-1 {
			continue
		}
		directory := path[:max(i, 1)]
		info, err := os.Stat(directory)
		switch {
		case errors.Is(err, unix.ENOENT):
			return absent(directory, "no directory ")
		case err != nil:
			return unlooked(directory, err)
		case !info.IsDir():
			return gone(directory + " is no directory")
		case !may(directory, who):
			return fmt.Errorf("user %d may not enter the directory %s: chmod o+x %s, or put the program elsewhere", uid(who), directory, directory)
		}
	}
	return nil
}

// gone is an obstacle that is an fs.ErrNotExist.
type gone string

func (g gone) Error() string { return string(g) }

func (g gone) Is(target error) bool { return target == fs.ErrNotExist }

func absent(path, what string) error {
	if target, err := os.Readlink(path); err == nil {
		return gone(path + " is a symlink to " + target + ", which is not there")
	}
	return gone(what + path)
}

func unlooked(path string, err error) error {
	if errors.Is(err, unix.ELOOP) {
		return errors.New(path + " is a symlink that leads back to itself")
	}
	return fmt.Errorf("cannot look at %s: %w", path, cause(err))
}

// cause is a file's error without the path.
func cause(err error) error {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return failed.Err
	}
	return err
}

// may reports whether a user may execute a file or enter a directory. Of a user that
// this process is not, it knows the mode, and no access control list (acl(5)).
func may(path string, who *Credential) bool {
	if who == nil || int(who.UID) == os.Geteuid() {
		return unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS) == nil
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return false
	}
	switch {
	case who.UID == 0:
		return stat.Mode&0o111 != 0 || stat.Mode&unix.S_IFMT == unix.S_IFDIR
	case who.UID == stat.Uid:
		return stat.Mode&0o100 != 0
	case who.GID == stat.Gid, slices.Contains(who.Groups, stat.Gid):
		return stat.Mode&0o010 != 0
	}
	return stat.Mode&0o001 != 0
}

func uid(who *Credential) int {
	if who == nil {
		return os.Geteuid()
	}
	return int(who.UID)
}

// headSize is how much of a file the kernel reads to find out what it is
// (BINPRM_BUF_SIZE).
const headSize = 256

// headOf is the beginning of the file at path.
func headOf(path string) (file *os.File, head []byte, err error) {
	file, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	head, err = io.ReadAll(io.NewSectionReader(file, 0, headSize))
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, head, nil
}

// interpreterOf is what the kernel loads to run the file at path: the program in
// a script's first line, as it stands there, the loader of an ELF file, "" where
// there is none.
func interpreterOf(path string) string {
	file, head, err := headOf(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	if line, script := bytes.CutPrefix(head, []byte("#!")); script {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		line = bytes.TrimLeft(line, " \t")
		if end := bytes.IndexAny(line, " \t\x00"); end >= 0 {
			line = line[:end]
		}
		return string(line)
	}
	return loaderOf(file)
}

// noProgram says what a file is that the kernel does not take for a program
// (ENOEXEC).
func noProgram(path string) string {
	file, head, err := headOf(path)
	if err != nil {
		return "it is no program for this machine, and no script that begins with #!"
	}
	file.Close()
	line, script := bytes.CutPrefix(head, []byte("#!"))
	switch {
	case len(head) == 0:
		return "it is empty"
	case script && len(head) == headSize && !bytes.Contains(head, []byte("\n")):
		return fmt.Sprintf("its first line is longer than %d bytes", headSize-1)
	case script && len(bytes.TrimLeft(line, " \t")) > 0 && bytes.TrimLeft(line, " \t")[0] != '\n':
		return "its interpreter is no program"
	case script:
		return "its first line names no interpreter after the #!"
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf#!")):
		return "it begins with a byte order mark in front of the #!: save it without"
	case bytes.HasPrefix(head, []byte(elfMagic)):
		return noELF(head)
	}
	return "it is no program, and no script: its first line does not begin with #!"
}

// noELF says what is wrong with an ELF file, by comparing it with the program that
// runs here.
func noELF(head []byte) string {
	const kind, size = 4, 20 // class and order of bytes; up to and with e_machine (elf(5))
	self, own, err := headOf("/proc/self/exe")
	if err == nil {
		self.Close()
	}
	if len(head) >= size && len(own) >= size {
		is, here := machine(head[:size]), machine(own[:size])
		if is != here || !bytes.Equal(head[kind:kind+2], own[kind:kind+2]) {
			return fmt.Sprintf("it is a program for another machine (%s; this one is %s)", is, here)
		}
	}
	return "it is an ELF file, and no complete program: was it copied as a whole?"
}

// machine is what an ELF file runs on, as far as it is one of the usual.
func machine(head []byte) string {
	const littleEndian = 1
	number := binary.BigEndian.Uint16(head[18:])
	if head[5] == littleEndian {
		number = binary.LittleEndian.Uint16(head[18:])
	}
	name := map[uint16]string{3: "386", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64"}[number]
	if name == "" {
		name = fmt.Sprintf("machine %d", number)
	}
	return name
}

// loaderOf is the PT_INTERP of a little-endian ELF file (elf(5)), "" where there is
// none. It does without debug/elf, which would bring DWARF and three kinds of
// decompression into the master.
func loaderOf(file io.ReaderAt) string {
	const class32, little, interp = 1, 1, 3
	var head [64]byte
	if _, err := file.ReadAt(head[:], 0); err != nil || string(head[:4]) != elfMagic || head[5] != little {
		return ""
	}
	order := binary.LittleEndian
	at, size, count := int64(order.Uint64(head[32:])), int64(order.Uint16(head[54:])), order.Uint16(head[56:])
	where := func(segment []byte) (offset, length uint64) {
		return order.Uint64(segment[8:]), order.Uint64(segment[32:])
	}
	if head[4] == class32 {
		at, size, count = int64(order.Uint32(head[28:])), int64(order.Uint16(head[42:])), order.Uint16(head[44:])
		where = func(segment []byte) (offset, length uint64) {
			return uint64(order.Uint32(segment[4:])), uint64(order.Uint32(segment[16:]))
		}
	}
	for range count {
		var segment [56]byte
		if _, err := file.ReadAt(segment[:], at); err != nil {
			return ""
		}
		if offset, length := where(segment[:]); order.Uint32(segment[:]) == interp && length <= unix.PathMax {
			name := make([]byte, length)
			if _, err := file.ReadAt(name, int64(offset)); err != nil {
				return ""
			}
			return strings.TrimRight(string(name), "\x00")
		}
		at += size
	}
	return ""
}
