package worker

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/forkd/forkd/ipc"
)

// writeTimeout bounds a write to a master that does not read. It is long for a
// healthy one and short against ready.timeout.
const writeTimeout = 5 * time.Second

// channel is the worker's end of the message channel.
type channel struct {
	conn net.Conn
	in   *ipc.Reader // for Worker.read alone
	gone chan struct{}
	end  sync.Once

	mu  sync.Mutex
	err error // of the write that failed: a line may be half out
}

// openChannel takes the passed descriptor over.
func openChannel(fd int) (*channel, error) {
	f := os.NewFile(uintptr(fd), "channel")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("cannot open channel to the master: %w", err)
	}
	return &channel{conn: conn, in: ipc.NewReader(conn), gone: make(chan struct{})}, nil
}

// isGone reports whether the master has closed its end.
func (c *channel) isGone() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
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

// read takes what the master says until its end of the channel closes, or says
// what can't be understood: then nothing after it could be either.
func (w *Worker) read() {
	defer w.masterGone()
	for {
		m, err := w.channel.in.Read()
		if err != nil {
			return
		}
		switch m := m.(type) {
		case ipc.Drain:
			w.orders.announce(m)
		case ipc.App:
			select {
			case w.messages <- json.RawMessage(m):
			default:
			}
		case ipc.Shed:
			w.ask(m)
		case ipc.Hello, ipc.Ready, ipc.Pulse, ipc.Reserved:
			// A worker's own words, or a newer master's.
		}
	}
}

// masterGone drains a worker whose master has closed the channel: nobody would
// replace it, and its successor under a new master waits for its sockets.
func (w *Worker) masterGone() {
	w.channel.end.Do(func() {
		close(w.channel.gone)
		w.channel.conn.Close()
		w.orders.fallback()
	})
}
