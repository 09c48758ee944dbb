package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

// writeTimeout bounds a write to a master that does not read.
const writeTimeout = 5 * time.Second

// channel is the worker's end of the message channel.
type channel struct {
	conn   *net.UnixConn
	closed context.Context // is done when the channel is closed
	close  context.CancelFunc

	mu  sync.Mutex
	err error // of the write that failed: a line may be half out
}

// openChannel takes ownership of the passed descriptor.
func openChannel(fd int) (*channel, error) {
	conn, err := unixConnOf(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot open channel to the master: %w", err)
	}
	c := &channel{conn: conn}
	c.closed, c.close = context.WithCancel(context.Background())
	return c, nil
}

// tell is write for forkd's own messages: if it fails, so has the channel.
func (w *Worker) tell(m ipc.Message) {
	if w.channel.write(m) != nil {
		w.closeChannel()
	}
}

func (c *channel) write(m ipc.Message) error {
	line, err := ipc.Encode(m)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := c.conn.Write(line); err != nil {
		c.err = fmt.Errorf("cannot write to the master: %w", err)
	}
	return c.err
}

// read handles the master's messages until the channel closes or a line is invalid.
func (w *Worker) read() {
	defer w.closeChannel()
	rights := &rights{conn: w.channel.conn}
	defer rights.close()
	for in := ipc.NewReader(rights); ; {
		m, err := in.Read()
		if err != nil {
			return
		}
		switch m := m.(type) {
		case ipc.Drain:
			w.drain.onMessage(m)
		case ipc.App:
			select {
			case w.messages <- json.RawMessage(m):
			default:
			}
		case ipc.Shed:
			w.startShed(m)
		case ipc.Handoff:
			if fd, ok := rights.next(); ok {
				w.onHandoff(m.Role, fd)
			}
		case ipc.Hello, ipc.Ready, ipc.Pulse, ipc.Reserved:
			// From a worker, or from a newer master.
		}
	}
}

// closeChannel drains the worker: a new master waits for its sockets.
func (w *Worker) closeChannel() {
	w.channel.close()
	w.channel.conn.Close()
	w.drain.begin()
}

// rights reads the channel, and keeps the descriptors that come with it, in their order.
type rights struct {
	conn *net.UnixConn
	fds  []int
}

func (r *rights) Read(p []byte) (int, error) {
	var oob [64]byte
	n, oobn, _, _, err := r.conn.ReadMsgUnix(p, oob[:])
	r.fds = append(r.fds, ipc.Descriptors(oob[:max(0, oobn)])...)
	return max(0, n), err // where recvmsg(2) fails they are -1
}

// next is the next descriptor. There is none if this process could not have one more.
func (r *rights) next() (fd int, ok bool) {
	if len(r.fds) == 0 {
		return -1, false
	}
	fd, r.fds = r.fds[0], r.fds[1:]
	return fd, true
}

func (r *rights) close() {
	for _, fd := range r.fds {
		unix.Close(fd)
	}
}
