// Package output is an app's log: it reads the output of workers, keeps the newest lines,
// and writes them, and the master's own, to the master's outputs, to the journal and to
// files. A slow reader delays nobody: lines are dropped, counted, and the count is written.
// It must not know workers or the loop.
package output

import (
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// maxPending bounds what waits to be written, in bytes, and maxShare what one worker's
	// stream has of it, so that one that floods leaves room for the others.
	maxPending = 1 << 20
	maxShare   = 128 << 10
	// roomTimeout is how long a worker's output waits for room. Then lines are dropped
	// until there is room: a stuck terminal must not stop a server.
	roomTimeout = time.Second
	// maxSpare bounds the buffer that is kept between two writes.
	maxSpare = 32 << 10
)

// A Writer writes whole lines to one output, in a goroutine. It ignores write errors (EIO,
// EPIPE).
type Writer struct {
	to   io.Writer
	note func(dropped int) []byte // the line that says so

	mu      sync.Mutex
	pending []byte
	turn    uint64 // grows when pending is taken
	dropped int
	stuck   bool // a line has timed out: none waits until there is room
	closed  bool
	work    chan struct{} // holds one: there is something to do
	taken   chan struct{} // closed when pending is taken
	done    chan struct{}
}

// New returns a Writer to an output, which it does not close.
func New(to io.Writer) *Writer {
	return newWriter(to, func(dropped int) []byte {
		return fmt.Appendf(nil, "forkd: %d lines dropped: this output was stuck\n", dropped)
	})
}

func newWriter(to io.Writer, note func(dropped int) []byte) *Writer {
	w := &Writer{to: to, note: note, work: make(chan struct{}, 1), taken: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

// A share is what a worker's stream has of a Writer's pending bytes.
type share struct {
	turn uint64
	size int
}

// Write takes one line, or drops it if too much waits. It never blocks and never fails.
func (w *Writer) Write(line []byte) (int, error) {
	w.put(line, 1)
	return len(line), nil
}

// put takes lines, or drops them.
func (w *Writer) put(text []byte, lines int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending)+len(text) > maxPending {
		w.dropped += lines
	} else {
		w.append(text)
	}
}

// wait waits up to roomTimeout for room in a share. false: what it is for is to be dropped.
func (w *Writer) wait(s *share, size int) bool {
	var timeout <-chan time.Time
	for {
		ok, taken := w.room(s, size)
		if taken == nil {
			return ok
		}
		if timeout == nil {
			timeout = time.After(roomTimeout)
		}
		select {
		case <-taken:
		case <-w.done:
			return false
		case <-timeout:
			w.mu.Lock()
			w.stuck = true
			w.mu.Unlock()
		}
	}
}

// room reports whether there is room, or for which channel to wait.
func (w *Writer) room(s *share, size int) (ok bool, wait <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.turn != w.turn {
		*s = share{turn: w.turn}
	}
	switch {
	case len(w.pending) < maxPending && (s.size == 0 || s.size+size <= maxShare):
		return true, nil
	case w.stuck:
		return false, nil
	}
	return false, w.taken
}

// putShare takes lines for which there was room, or with drop counts them as dropped.
func (w *Writer) putShare(s *share, text []byte, lines int, drop bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if drop {
		w.dropped += lines
		return
	}
	if s.turn != w.turn {
		*s = share{turn: w.turn}
	}
	s.size += len(text)
	w.append(text)
}

func (w *Writer) append(text []byte) {
	w.pending = append(w.pending, text...)
	poke(w.work)
}

func (w *Writer) run() {
	defer close(w.done)
	var spare []byte
	for range w.work {
		w.mu.Lock()
		batch, dropped, closed := w.pending, w.dropped, w.closed
		w.pending, w.dropped, w.stuck = spare[:0], 0, false
		w.turn++
		close(w.taken)
		w.taken = make(chan struct{})
		w.mu.Unlock()
		if dropped > 0 {
			batch = append(batch, w.note(dropped)...)
		}
		if len(batch) > 0 {
			_, _ = w.to.Write(batch)
		}
		spare = batch
		if closed {
			return
		}
		select {
		case <-w.work:
			poke(w.work)
		default:
			if cap(spare) > maxSpare {
				spare = nil // a burst is over: its memory is not kept
			}
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
