package output

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/pace"
)

// maxLine is where a worker's line is cut in two, and what is read at once, in bytes.
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

// What is read of one stream of a worker per second. A flood then costs the master a few
// percent of a CPU.
const (
	linesPerSecond  = 100_000
	outputPerSecond = 8 << 20 // bytes
)

// readsPerSecond bounds how often it is read for a few lines: then they are read many at a
// time, each readRest, as a reading costs more than a line.
const (
	readsPerSecond = 100
	readRest       = 10 * time.Millisecond
)

// captured is a stream of a worker, and what has to be known to add its lines.
type captured struct {
	slot     int
	header   []byte
	shares   []share // of the Log's writers
	dropping []bool
}

// Capture adds a worker's output to the log, line by line, and its last lines to last (may
// be nil). It closes from and returns when no process, such as a child of the worker, holds
// the other end.
func (l *Log) Capture(from io.ReadCloser, s Source, last *Tail) {
	defer from.Close()
	c := &captured{slot: s.Slot, header: s.header(), shares: make([]share, len(l.writers)), dropping: make([]bool, len(l.writers))}
	in := pace.NewReader(from, outputPerSecond, linesPerSecond, nil)
	reads := pace.New(readsPerSecond, time.Now())
	text, held := make([]byte, maxLine), 0
	for {
		n, err := in.Read(text[held:])
		held += n
		whole := bytes.LastIndexByte(text[:held], '\n') + 1
		if whole == 0 && held == len(text) || err != nil {
			whole = held
		}
		if whole > 0 {
			last.add(text[:whole])
			l.add(c, text[:whole])
			held = copy(text, text[whole:held])
		}
		switch {
		case err != nil:
			return
		case n < maxLine/4 && reads.Take(1, time.Now()) > 0:
			time.Sleep(readRest)
		}
	}
}
