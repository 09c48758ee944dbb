package output

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
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

// AdoptPipe opens a process's output again, descriptor 1 or 2, where that is a pipe of
// NewPipe's whose reader was another master: without a name, and open for reading too, which
// nothing else's is. Its inode tells whether another process has the same.
func AdoptPipe(pid, fd int) (read *os.File, inode uint64, err error) {
	path := fmt.Sprintf("/proc/%d/fd/%d", pid, fd)
	name, err := os.Readlink(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return nil, 0, err
	}
	var position, flags int64
	if n, _ := fmt.Sscanf(string(info), "pos:\t%d\nflags:\t%o", &position, &flags); n != 2 || flags&unix.O_ACCMODE != unix.O_RDWR || !strings.HasPrefix(name, "pipe:") {
		return nil, 0, fmt.Errorf("%s is no output of a worker's", path)
	}
	raw, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(raw, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFIFO {
		unix.Close(raw)
		return nil, 0, fmt.Errorf("%s is another file now", path)
	}
	return os.NewFile(uintptr(raw), "output"), stat.Ino, nil
}

// What is read of one stream of a worker per second. A flood then costs the master a few
// percent of a CPU.
const (
	linesPerSecond  = 100_000
	outputPerSecond = 8 << 20 // bytes
)

// readsPerSecond bounds how often it is read for a few lines: then they are read many at a
// time, as a reading costs more than a line. It rests for readRest at most, and for less where
// more than halfPipe has come meanwhile, so that the worker does not wait.
const (
	readsPerSecond = 50
	readRest       = 20 * time.Millisecond
	minReadRest    = 2 * time.Millisecond
	halfPipe       = 32 << 10 // of 64 KiB, pipe(7)
)

type rester struct {
	reads pace.Bucket
	rest  time.Duration
	size  int // read since
}

// read notes a reading, and rests if there are too many. All streams rest until the same
// moment, so that a thread wakes up for all of them.
func (r *rester) read(size int) {
	r.size += size
	now := time.Now()
	if size >= maxLine/4 || r.reads.Take(1, now) == 0 {
		return
	}
	r.rest = min(max(r.rest*halfPipe/time.Duration(max(r.size, 1)), minReadRest), readRest)
	r.size = 0
	time.Sleep(now.Truncate(r.rest).Add(r.rest).Sub(now))
}

// readNow reads what is there already, whatever the deadline.
func readNow(from io.ReadCloser, text []byte) (n int) {
	file, ok := from.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), text) })
	return max(n, 0)
}

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
	defer l.begin(from)()
	c := &captured{slot: s.Slot, header: s.header(), shares: make([]share, len(l.writers)), dropping: make([]bool, len(l.writers))}
	in := pace.NewReader(from, outputPerSecond, linesPerSecond, nil)
	rest := rester{reads: pace.New(readsPerSecond, time.Now()), rest: readRest}
	text, held := make([]byte, maxLine), 0
	for late := 0; ; {
		n, err := in.Read(text[held:])
		if errors.Is(err, os.ErrDeadlineExceeded) && late < 2*halfPipe {
			if n = readNow(from, text[held:]); n > 0 { // it came before, and has not been read in time
				late, err = late+n, nil
			}
		}
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
		if err != nil {
			return
		}
		rest.read(n)
	}
}
