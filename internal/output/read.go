package output

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/safefile"
)

// ReadFiles returns the lines that an app's files hold in a directory, the oldest first; an
// error that is os.ErrNotExist where there are none. What is no line of forkd's is left out,
// such as the rest of one that was torn. The directory may be anybody's: no link is followed,
// and nothing but a regular file is read.
func ReadFiles(dir, app string, q Query) ([]Line, error) {
	files, err := openFiles(dir, app)
	if err != nil {
		return nil, err
	}
	var all [][]Line // by file, the newest first
	found := 0
	for _, f := range files {
		info, err := f.Stat()
		if err == nil && (q.N == All || found < q.N) && info.ModTime().Add(mtimeLag).After(q.Since) {
			lines := readLines(f, q)
			found += len(lines)
			all = append(all, lines)
		}
		f.Close()
	}
	slices.Reverse(all)
	lines := slices.Concat(all...)
	if q.N != All && len(lines) > q.N {
		lines = lines[len(lines)-q.N:]
	}
	return lines, nil
}

// MaxFiles bounds how many files of an app there are, and MinSize is the least bound of one,
// in bytes.
const (
	MaxFiles = 1000
	MinSize  = 64 << 10
)

// mtimeLag is more than a file's time may be behind that of a line in it, which file systems
// take from a coarser clock.
const mtimeLag = time.Second

// openFiles opens an app's files, the newest first. One that is rotated meanwhile is there
// once.
func openFiles(dir, app string) (files []*os.File, err error) {
	seen := map[uint64]bool{}
	for i, name := 0, FileName(app); i < MaxFiles; i, name = i+1, numbered(FileName(app), i+1) {
		file, inode, err := openRegular(filepath.Join(dir, name))
		switch {
		case err != nil && i == 0:
			return nil, err
		case errors.Is(err, os.ErrNotExist):
			return files, nil
		case err != nil:
		case seen[inode]:
			file.Close()
		default:
			seen[inode] = true
			files = append(files, file)
		}
	}
	return files, nil
}

func openRegular(path string) (file *os.File, inode uint64, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var stat unix.Stat_t
	if err = unix.Fstat(fd, &stat); err == nil && stat.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		unix.Close(fd)
		return nil, 0, &os.PathError{Op: "read", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), stat.Ino, nil
}

// readLines returns the newest lines of a file that are wanted.
func readLines(f *os.File, q Query) (lines []Line) {
	for scan := safefile.ScanLines(f, 4*maxLine); scan.Scan(); {
		if _, l, ok := q.look(scan.Bytes()); ok {
			if q.N > 0 && len(lines) == 2*q.N {
				lines = append(lines[:0], lines[q.N:]...)
			}
			lines = append(lines, l)
		}
	}
	return lines
}
