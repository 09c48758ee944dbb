package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// errLed says that a path leads where it should not.
var errLed = errors.New("a symbolic link of another user's leads to a directory that is not that user's")

// openDir opens a directory in which a file is to be made. Somebody with fewer
// rights than this process may own a directory on the way there, and could lead it
// elsewhere: a symbolic link of theirs is followed only to a directory of theirs.
// What is done in the directory is to be done by its descriptor. The caller closes
// it.
func openDir(path string) (dir int, err error) {
	const (
		how      = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
		maxLinks = 40 // the kernel's own bound, path_resolution(7)
	)
	if dir, err = unix.Open("/", how, 0); err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(dir)
			dir = -1
		}
	}()
	var led []uint32 // by whom
	var stat unix.Stat_t
	for links, names := 0, components(path); len(names) > 0; {
		next, err := unix.Openat(dir, names[0], how, 0)
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
		if filepath.IsAbs(string(target[:n])) {
			unix.Close(dir)
			if dir, err = unix.Open("/", how, 0); err != nil {
				return dir, err
			}
		}
		names = append(components(string(target[:n])), names...)
	}
	if err := unix.Fstat(dir, &stat); err != nil {
		return dir, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return dir, unix.ENOTDIR
	}
	for _, uid := range led {
		if uid != stat.Uid {
			return dir, errLed
		}
	}
	return dir, nil
}

func components(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}
