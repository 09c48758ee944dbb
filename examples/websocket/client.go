package main

import (
	"container/list"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/forkd/forkd/examples/websocket/chat"
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

// state is all that there is to know of a connection between two of its messages: with
// it and the socket another worker could go on.
type state struct {
	Session string
	Room    string
	Seen    chat.ID // the newest message of the room that the client was sent
	Ahead   []byte  // read from the socket, and not used yet
}

// client is one connection.
type client struct {
	state // Seen belongs to who holds the hub's lock, the rest to serve

	conn    net.Conn
	ping    time.Duration // a silent client is pinged after this, and given up after twice of it
	room    *room
	element *list.Element // in the server's list

	mu      sync.Mutex
	queue   net.Buffers
	queued  int
	writing bool // a goroutine is
	closing bool // a close frame is queued: the last one
	ended   bool // close the socket once all is written
}

// Read is what the frames are read from. It never reads more than it is asked for, so
// nothing but Ahead is between the socket and the program.
func (c *client) Read(p []byte) (int, error) {
	if len(c.Ahead) > 0 {
		n := copy(p, c.Ahead)
		c.Ahead = c.Ahead[n:]
		return n, nil
	}
	for silent := 0; ; silent++ {
		c.mu.Lock()
		closing := c.closing
		if !closing {
			_ = c.conn.SetReadDeadline(time.Now().Add(c.ping))
		}
		c.mu.Unlock()
		n, err := c.conn.Read(p)
		if n > 0 || closing || silent > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		c.send(ws.CompiledPing)
	}
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
	if !c.writing {
		c.writing = true
		go c.write()
	}
}

// write writes what is queued, on a goroutine that lives as long as there is something.
func (c *client) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 {
		frames, n := c.queue, c.queued
		c.queue = nil
		c.mu.Unlock()
		_ = c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := frames.WriteTo(c.conn)
		c.mu.Lock()
		c.queued -= n
		if err != nil {
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
// answer. It reports whether it is the first to do so.
func (c *client) close(code ws.StatusCode, reason string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.add(ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(code, reason))))
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
