package output

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/pace"
)

// maxLine is where a worker's line is cut in two, in bytes.
const maxLine = 16 << 10

// NewPipe returns a pipe for a worker's output that belongs to uid and gid (-1: the
// master's), so that the worker may open /dev/stdout. The write end can read too, so that
// a worker gets no SIGPIPE when its master is gone (pipe(7)).
func NewPipe(uid, gid int) (read *os.File, write int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("cannot make a pipe for the worker's output: %w", err)
	}
	write, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", fds[1]), unix.O_RDWR|unix.O_CLOEXEC, 0)
	unix.Close(fds[1])
	if err == nil && uid >= 0 {
		err = unix.Fchown(fds[0], uid, gid)
	}
	if err == nil {
		err = unix.SetNonblock(fds[0], true) // of the read end alone: they are two descriptions
	}
	if err != nil {
		unix.Close(fds[0])
		return nil, -1, fmt.Errorf("cannot open the worker's output pipe: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "output"), write, nil
}

// What is read of one worker per second. A flood then costs the master a few percent of a
// CPU.
const (
	linesPerSecond  = 100_000
	outputPerSecond = 8 << 20 // bytes
)

// Capture forwards a worker's output to a Writer line by line, each with the prefix, and
// keeps the last lines in last (may be nil). It closes from and returns when no process,
// such as a child of the worker, holds the other end.
func Capture(from io.ReadCloser, to *Writer, prefix string, last *Tail) {
	defer from.Close()
	lines := bufio.NewReaderSize(pace.NewReader(from, outputPerSecond, linesPerSecond, nil), maxLine)
	var out []byte
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			line = bytes.TrimSuffix(line, []byte("\n"))
			last.add(line)
			out = append(append(out[:0], prefix...), line...)
			to.WriteWait(append(out, '\n'))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
