package supervisor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

// channel is the master's end of a worker's message channel.
type channel struct {
	conn *net.UnixConn
}

// newChannel returns both ends: the master's, and the descriptor for the worker.
func newChannel() (*channel, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("cannot make the worker's channel: %w", err)
	}
	file := os.NewFile(uintptr(fds[0]), "channel")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		unix.Close(fds[1])
		return nil, -1, fmt.Errorf("cannot make the worker's channel: %w", err)
	}
	return &channel{conn.(*net.UnixConn)}, fds[1], nil
}

func (c *channel) close() { c.conn.Close() }

// receive calls heard for each message, until the channel ends. It returns why
// the master has to close it, nil when the worker did.
func (c *channel) receive(heard func(ipc.Message)) error {
	messages := ipc.NewReader(c.conn)
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

// send writes one message without waiting: the worker of a full channel does
// not read it, and its stop signal tells it the same.
func (c *channel) send(m ipc.Message) error {
	line, err := ipc.Append(nil, m)
	if err != nil {
		return err
	}
	return withFD(c.conn, func(fd int) error {
		n, err := unix.SendmsgN(fd, line, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err == nil && n < len(line) {
			err = io.ErrShortWrite
		}
		return err
	})
}

// sendDrain tells a worker to drain, with what it needs to spread its goodbyes.
func (c *channel) sendDrain(reason string, deadline time.Time, idle time.Duration) error {
	return c.send(ipc.Drain{Reason: reason, Deadline: deadline, Idle: idle})
}
