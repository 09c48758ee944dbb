package main

import (
	"bytes"
	"container/list"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

const (
	maxMessage   = 4 << 10          // bytes of one message from a client
	maxQueued    = 1 << 20          // bytes that wait for a client who reads slowly: more, and it is dropped
	writeTimeout = 10 * time.Second // for a client to take a write
	closeTimeout = 2 * time.Second  // for a client to answer a close frame
)

const (
	statusServiceRestart ws.StatusCode = 1012 // IANA's registry of close codes
	statusTryAgainLater  ws.StatusCode = 1013
)

// client is one connection.
type client struct {
	state // Seen belongs to who holds the hub's lock, the rest to serve

	conn    net.Conn
	ping    time.Duration // a silent client is pinged after this, and given up after twice of it
	room    *room
	element *list.Element // in the server's list
	parsed  int           // of Ahead, by whoever reads frames

	mu      sync.Mutex
	queue   net.Buffers
	queued  int
	writing bool // a goroutine is
	writer  sync.WaitGroup
	closing bool            // a close frame is queued: the last one
	ended   bool            // close the socket once all is written
	moving  bool            // to another worker: nobody reads or writes any more
	tried   <-chan struct{} // the successor that it has been moving to
}

// maxAhead is how many bytes are kept of a message that is not whole: it, and the heads of
// its frames.
const maxAhead = 4 * maxMessage

var errMoving = errors.New("another worker goes on")

// Read is what the frames are read from. It never reads more than it is asked for. What
// it has read stays in Ahead until it is handled, so that another worker can read it again.
func (c *client) Read(p []byte) (int, error) {
	if c.parsed < len(c.Ahead) {
		n := copy(p, c.Ahead[c.parsed:])
		c.parsed += n
		return n, nil
	}
	if len(c.Ahead) > maxAhead {
		return 0, wsutil.ErrMessageTooLarge
	}
	for silent := 0; ; silent++ {
		c.mu.Lock()
		if !c.closing && !c.moving {
			_ = c.conn.SetReadDeadline(time.Now().Add(c.ping))
		}
		c.mu.Unlock()
		n, err := c.conn.Read(p)
		c.Ahead = append(c.Ahead, p[:n]...)
		c.parsed = len(c.Ahead)
		switch {
		case n > 0 || !errors.Is(err, os.ErrDeadlineExceeded):
			return n, err
		case c.isMoving():
			return 0, errMoving
		case silent > 0 || c.isClosing():
			return 0, err
		}
		c.send(ws.CompiledPing)
	}
}

// handled forgets a message, and what came before it.
func (c *client) handled() { c.Ahead, c.parsed = bytes.Clone(c.Ahead[c.parsed:]), 0 }

// handledControl forgets a control frame, which may come between the frames of a message.
func (c *client) handledControl(h ws.Header) {
	from := c.parsed - ws.HeaderSize(h) - int(h.Length)
	c.Ahead, c.parsed = slices.Delete(c.Ahead, from, c.parsed), from
}

// send queues a frame. It never blocks. Nothing follows a close frame.
func (c *client) send(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.add(frame)
	}
}

// add queues a frame. The caller holds the lock.
func (c *client) add(frame []byte) {
	if c.queued += len(frame); c.queued > maxQueued {
		c.queue = nil
		c.closing = true
		c.conn.Close() // which ends serve
		return
	}
	c.queue = append(c.queue, frame)
	c.startWriting()
}

func (c *client) startWriting() {
	if !c.writing && !c.moving && len(c.queue) > 0 {
		c.writing = true
		c.writer.Go(c.write)
	}
}

// write writes what is queued, on a goroutine that lives as long as there is something.
func (c *client) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 && !c.moving {
		frames := c.queue
		c.queue = nil
		_ = c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		c.mu.Unlock()
		n, err := frames.WriteTo(c.conn)
		c.mu.Lock()
		c.queued -= int(n)
		switch {
		case err == nil:
		case c.moving && errors.Is(err, os.ErrDeadlineExceeded):
			c.queue = append(frames, c.queue...) // the first is what is left of its frame
		default:
			c.queue, c.closing = nil, true
			c.conn.Close()
		}
	}
	c.writing = false
	if c.ended {
		c.conn.Close()
	}
}

// close sends a close frame, after all that is queued, and gives the client some time to
// answer. It reports whether it is the first to do so. A client that is moving stays; only
// the goroutine that serves it may close it then.
func (c *client) close(code ws.StatusCode, reason string) bool {
	return c.closeWith(ws.NewCloseFrameBody(code, reason))
}

func (c *client) closeWith(body []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.moving = false
	c.add(ws.MustCompileFrame(ws.NewCloseFrame(body)))
	c.closing = true
	_ = c.conn.SetReadDeadline(time.Now().Add(closeTimeout))
	return true
}

// end closes the socket as soon as all is written. The caller reads no more.
func (c *client) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing, c.ended = true, true
	if !c.writing {
		c.conn.Close()
	}
}

func (c *client) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

func (c *client) isMoving() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.moving
}
