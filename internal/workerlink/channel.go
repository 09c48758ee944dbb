package workerlink

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/pace"
	"github.com/forkd/forkd/ipc"
)

// What is read of one worker's channel or notify socket per second.
const (
	messagesPerSecond = 1000
	bytesPerSecond    = 8 << 20
)

// channel is the master's end of a worker's message channel. It is safe for concurrent use.
// Only receive, which is for one goroutine, may block.
type channel struct {
	conn *closing.Conn
	raw  syscall.RawConn

	mu     sync.Mutex
	outbox outbox // what the socket had no room for
	busy   bool   // the writer runs: what is sent waits behind it
	broken error  // why nothing more goes out
}

// newChannel returns both ends: the master's, and the descriptor for the worker.
func newChannel(closer *closing.Closer) (c *channel, theirs int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("cannot make the worker's channel: %w", err)
	}
	closing.RefuseRights(fds[0])
	file := os.NewFile(uintptr(fds[0]), "channel")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err == nil {
		c = &channel{conn: closing.NewConn(conn.(*net.UnixConn), closer)}
		c.raw, err = c.conn.SyscallConn()
	}
	if err != nil {
		unix.Close(fds[1])
		return nil, -1, fmt.Errorf("cannot make the worker's channel: %w", err)
	}
	return c, fds[1], nil
}

// close ends the channel, the writer and receive. Lines that wait are lost.
func (c *channel) close() {
	c.mu.Lock()
	c.broken, c.outbox = net.ErrClosed, outbox{} // before: send must not be the last to use the socket
	c.mu.Unlock()
	c.conn.Close()
}

// receive calls heard for each message until the channel ends. An error says why the
// master has to close it.
func (c *channel) receive(heard func(ipc.Message)) error {
	messages := ipc.NewReader(pace.NewReader(c.conn, bytesPerSecond, messagesPerSecond, c.conn.Closed()))
	for {
		m, err := messages.Read()
		switch {
		case err == nil:
			heard(m)
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, unix.ECONNRESET):
			return nil
		default:
			return err
		}
	}
}

// send sends one of forkd's own messages. One that the socket has no room for waits, before
// those of applications. The error is net.ErrClosed or EPIPE if the channel has ended.
func (c *channel) send(m ipc.Message) error {
	line, err := ipc.Encode(m)
	if err != nil {
		return err
	}
	_, drain := m.(ipc.Drain)
	return c.put(line, nil, func() error { c.outbox.putOwn(line, drain); return nil })
}

// pass is send with a descriptor, which stays the caller's. It fails if the socket has no
// room: what waits can't have one.
func (c *channel) pass(m ipc.Message, fd int) error {
	line, err := ipc.Encode(m)
	if err != nil {
		return err
	}
	full := func() error { return unix.EAGAIN }
	return c.put(line, unix.UnixRights(fd), full)
}

// deliver is send for an application's encoded message, which is only read. The error is
// also errFull.
func (c *channel) deliver(line []byte) error {
	return c.put(line, nil, func() error { return c.outbox.put(line) })
}

// put writes a line at once if nothing waits, else has it kept. The writer writes the rest
// of one that the kernel takes only a part of; rights go with its first byte.
func (c *channel) put(line, rights []byte, keep func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return c.broken
	}
	if c.busy {
		return keep()
	}
	n, err := c.try(line, rights)
	switch {
	case err == nil && n == len(line):
		return nil
	case err != nil && !errors.Is(err, unix.EAGAIN):
		return err
	case n <= 0:
		if err := keep(); err != nil {
			return err
		}
	default:
		c.outbox.begin(line[n:])
	}
	c.busy = true
	go c.write()
	return nil
}

// try writes as much of a line as the socket has room for (send(2)).
func (c *channel) try(line, rights []byte) (n int, err error) {
	cerr := c.raw.Control(func(fd uintptr) {
		n, err = unix.SendmsgN(int(fd), line, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	if cerr != nil {
		return 0, cerr
	}
	return n, err
}

// write is the writer, which runs, once, as long as something waits.
func (c *channel) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		line := c.outbox.next()
		if line == nil || c.broken != nil {
			c.busy = false
			return
		}
		c.mu.Unlock()
		_, err := c.conn.Write(line)
		c.mu.Lock()
		if err != nil && c.broken == nil { // half a line may be out: nothing can follow
			c.broken, c.outbox = err, outbox{}
		}
	}
}
