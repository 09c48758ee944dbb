package supervisor

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine is where a worker's line is cut in two, in bytes.
const maxLine = 16 << 10

// newPipe returns a pipe for a worker's output. The write end is open for
// reading too, so that a worker whose master is gone is not killed by SIGPIPE at
// its next line (pipe(7)); what it writes then stays in the pipe. It belongs to
// the worker's user, who may open it again as /dev/stdout.
func newPipe(user *User) (read *os.File, write int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("cannot make a pipe for the worker's output: %w", err)
	}
	write, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", fds[1]), unix.O_RDWR|unix.O_CLOEXEC, 0)
	unix.Close(fds[1])
	if err == nil && user != nil {
		err = unix.Fchown(fds[0], int(user.UID), int(user.GID))
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

// What one worker may write, all of a second's at once. Beyond that its pipe is
// not read for a while, so that its own writes wait: a flood then costs the master
// a few percent of a processor, and an honest log never gets there.
const (
	linesPerSecond  = 100_000
	outputPerSecond = 8 << 20 // bytes
)

// pacedOutput reads a worker's output no faster than that.
type pacedOutput struct {
	io.Reader

	bytes, lines pace
	due          time.Duration // to rest before more is read
}

func (r *pacedOutput) Read(p []byte) (int, error) {
	rest(r.due, nil)
	n, err := r.Reader.Read(p)
	now := time.Now()
	r.due = max(r.bytes.take(n, now), r.lines.take(bytes.Count(p[:n], []byte{'\n'}), now))
	return n, err
}

// capture forwards a worker's output line by line, each with the prefix, until
// nobody holds the other end any more, and keeps the last of it in last (nil:
// nowhere). It goes on for as long as a child of the worker writes, at the pace
// that a worker may have.
func capture(from io.ReadCloser, to *output, prefix string, last *tail) {
	defer from.Close()
	now := time.Now()
	lines := bufio.NewReaderSize(&pacedOutput{Reader: from, bytes: newPace(outputPerSecond, now), lines: newPace(linesPerSecond, now)}, maxLine)
	var out []byte
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			line = bytes.TrimSuffix(line, []byte("\n"))
			last.add(line)
			out = append(append(out[:0], prefix...), line...)
			to.writePatiently(append(out, '\n'))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
