// Package output writes the master's own outputs and reads those of its workers. A slow
// reader delays nobody: lines are dropped, counted, and the count is written. It must not
// know workers or the loop.
package output

import (
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// maxPending bounds what waits to be written, in bytes.
	maxPending = 1 << 20
	// roomTimeout is how long a worker's output waits for room. Then lines are dropped
	// until there is room: a stuck terminal must not stop a server.
	roomTimeout = time.Second
	// maxSpare bounds the buffer that is kept between two writes.
	maxSpare = 32 << 10
)

// A Writer writes whole lines to one of the master's outputs, in a goroutine. It ignores
// write errors (EIO, EPIPE).
type Writer struct {
	to io.Writer

	mu      sync.Mutex
	pending []byte
	dropped int
	stuck   bool // a line has timed out: none waits until there is room
	closed  bool
	work    chan struct{} // holds one: there is something to do
	room    chan struct{} // holds one: pending has been taken
	done    chan struct{}
}

// New returns a Writer to an output, which it does not close.
func New(to io.Writer) *Writer {
	w := &Writer{to: to, work: make(chan struct{}, 1), room: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w
}

// Write takes one line, or drops it if too much waits. It never blocks and never fails.
func (w *Writer) Write(line []byte) (int, error) {
	w.put(line, false)
	return len(line), nil
}

// WriteWait waits up to roomTimeout for room before it drops the line.
func (w *Writer) WriteWait(line []byte) {
	var timeout <-chan time.Time
	for !w.put(line, true) {
		if timeout == nil {
			timeout = time.After(roomTimeout)
		}
		select {
		case <-w.room:
		case <-w.done:
			return
		case <-timeout:
			w.mu.Lock()
			w.stuck = true
			w.mu.Unlock()
		}
	}
}

// put keeps or drops a line; false: it should wait for room.
func (w *Writer) put(line []byte, wait bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case len(w.pending)+len(line) <= maxPending:
		w.pending = append(w.pending, line...)
		poke(w.work)
	case wait && !w.stuck:
		return false
	default:
		w.dropped++
	}
	return true
}

func (w *Writer) run() {
	defer close(w.done)
	var spare []byte
	for range w.work {
		w.mu.Lock()
		batch, dropped, closed := w.pending, w.dropped, w.closed
		w.pending, w.dropped, w.stuck = spare[:0], 0, false
		w.mu.Unlock()
		poke(w.room)
		if dropped > 0 {
			batch = fmt.Appendf(batch, "forkd: %d lines dropped: this output was stuck\n", dropped)
		}
		_, _ = w.to.Write(batch)
		if spare = batch; cap(spare) > maxSpare {
			spare = nil // a burst: its memory is not kept
		}
		if closed {
			return
		}
	}
}

// Close writes what is left, for roomTimeout at most.
func (w *Writer) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	poke(w.work)
	select {
	case <-w.done:
	case <-time.After(roomTimeout):
	}
}

// poke puts a token into a channel that holds one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
