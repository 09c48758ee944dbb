// Package safefile makes files in directories that belong to somebody with fewer
// rights than the master has, who may put links there at any moment.
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
	const maxLinks = 40 // the kernel's own bound, path_resolution(7)
	dir = unix.AT_FDCWD
	defer func() {
		if err != nil {
			unix.Close(dir)
			dir = -1
		}
	}()
	var led []uint32 // by whom
	var stat unix.Stat_t
	for links, names := 0, components(path); len(names) > 0; {
		next, err := unix.Openat(dir, names[0], unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return dir, err
		}
		names = names[1:]
		if err := unix.Fstat(next, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFLNK {
			unix.Close(dir)
			dir = next
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
		if stat.Uid != 0 && stat.Uid != uint32(os.Geteuid()) {
			led = append(led, stat.Uid)
		}
		names = append(components(string(target[:n])), names...)
	}
	switch err := unix.Fstat(dir, &stat); {
	case err != nil:
		return dir, err
	case stat.Mode&unix.S_IFMT != unix.S_IFDIR:
		return dir, unix.ENOTDIR
	case slices.ContainsFunc(led, func(uid uint32) bool { return uid != stat.Uid }):
		return dir, ErrRedirected
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
