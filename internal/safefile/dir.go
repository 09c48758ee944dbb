// Package safefile makes files in directories that belong to somebody with fewer
// rights than the master has, who may put links there at any moment; and it reads lines of
// files that may hold anything.
package safefile

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrRedirected says that a path leads where it should not.
var ErrRedirected = errors.New("a symbolic link of another user's leads to a directory that is not that user's")

// OpenDir opens a directory (O_PATH) in which a file is to be made by way of its
// descriptor, which the caller closes. A symbolic link of another user's is followed
// only to a directory of that user's; otherwise the error is ErrRedirected.
func OpenDir(path string) (dir int, err error) {
	var led []uint32 // by whom
	dir, err = walk(path, func(_, entry *unix.Stat_t) {
		if entry.Mode&unix.S_IFMT == unix.S_IFLNK && isAnother(entry.Uid) {
			led = append(led, entry.Uid)
		}
	})
	if err != nil {
		return -1, err
	}
	var stat unix.Stat_t
	switch err = unix.Fstat(dir, &stat); {
	case err != nil:
	case stat.Mode&unix.S_IFMT != unix.S_IFDIR:
		err = unix.ENOTDIR
	case slices.ContainsFunc(led, func(uid uint32) bool { return uid != stat.Uid }):
		err = ErrRedirected
	}
	if err != nil {
		unix.Close(dir)
		return -1, err
	}
	return dir, nil
}

// anybody is a user with few rights, the kernel's overflow user.
const anybody = 65534

// Redirector returns who else may lead a directory's path elsewhere, by renaming a part of it
// or as the owner of a link, or this process's own user: with whose rights what is done by
// that path harms nobody. Where several may, that is the overflow user. What the directory
// itself holds does not matter. Group members are trusted.
func Redirector(path string) (uid int, err error) {
	uid = os.Geteuid()
	add := func(other int) {
		switch {
		case uid == os.Geteuid():
			uid = other
		case uid != other:
			uid = anybody
		}
	}
	dir, err := walk(path, func(parent, entry *unix.Stat_t) {
		if parent != nil && isAnother(parent.Uid) {
			add(int(parent.Uid))
		}
		switch open := parent != nil && parent.Mode&unix.S_IWOTH != 0; {
		case open && parent.Mode&unix.S_ISVTX == 0:
			add(anybody)
		case (open || entry.Mode&unix.S_IFMT == unix.S_IFLNK) && isAnother(entry.Uid):
			add(int(entry.Uid))
		}
	})
	if err == nil {
		unix.Close(dir)
	}
	return uid, err
}

// isAnother reports whether a user is neither this process's nor root.
func isAnother(uid uint32) bool { return uid != 0 && int(uid) != os.Geteuid() }

// walk opens what a path leads to (O_PATH). It calls each with every name on the way, and the
// directory that it is in, nil for the first.
func walk(path string, each func(parent, entry *unix.Stat_t)) (dir int, err error) {
	const maxLinks = 40 // the kernel's own bound, path_resolution(7)
	dir = unix.AT_FDCWD
	defer func() {
		if err != nil {
			unix.Close(dir)
			dir = -1
		}
	}()
	var parent *unix.Stat_t
	for links, names := 0, components(path); len(names) > 0; {
		next, err := unix.Openat(dir, names[0], unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return dir, err
		}
		if names[0] == "/" {
			parent = nil
		}
		names = names[1:]
		var stat unix.Stat_t
		if err := unix.Fstat(next, &stat); err == nil {
			each(parent, &stat)
		}
		if stat.Mode&unix.S_IFMT != unix.S_IFLNK {
			unix.Close(dir)
			dir, parent = next, &stat
			continue
		}
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(next, "", target)
		unix.Close(next)
		if links++; err == nil && links > maxLinks {
			err = unix.ELOOP
		}
		if err != nil {
			return dir, err
		}
		names = append(components(string(target[:n])), names...)
	}
	return dir, nil
}

// components are the names in a path. The first of an absolute one is "/".
func components(path string) []string {
	names := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	if strings.HasPrefix(path, "/") {
		return append([]string{"/"}, names...)
	}
	return names
}
