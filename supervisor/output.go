package supervisor

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// maxPending bounds what waits to be written to one of the master's own
// outputs, in bytes.
const maxPending = 1 << 20

// patience is how long a worker's output waits for room before lines are
// dropped, at once from then on until there is room: a stuck terminal must not
// stop a server.
const patience = time.Second

// output writes whole lines to one of the master's own outputs, from a goroutine
// of its own: nobody who logs is ever held up by a slow terminal, and an output
// that has gone (EIO, EPIPE) is no reason to end.
type output struct {
	to io.Writer

	mu      sync.Mutex
	pending []byte
	dropped int
	stuck   bool // one has waited for room in vain: until there is some, nobody waits
	closed  bool
	work    chan struct{} // holds one: there is something to do
	room    chan struct{} // holds one: pending has been taken
	done    chan struct{}
}

func newOutput(to io.Writer) *output {
	o := &output{to: to, work: make(chan struct{}, 1), room: make(chan struct{}, 1), done: make(chan struct{})}
	go o.run()
	return o
}

// Write takes one line, or drops it where too much waits already. It never
// blocks and never fails.
func (o *output) Write(line []byte) (int, error) {
	if !o.put(line) {
		o.drop()
	}
	return len(line), nil
}

// writePatiently waits a while for room before it drops the line. For the
// goroutines that read the workers' output.
func (o *output) writePatiently(line []byte) {
	var enough <-chan time.Time
	for !o.put(line) {
		if enough == nil {
			if o.dropIfStuck() {
				return
			}
			enough = time.After(patience)
		}
		select {
		case <-o.room:
		case <-o.done:
			return
		case <-enough:
			o.giveUp()
			return
		}
	}
}

func (o *output) put(line []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.pending)+len(line) > maxPending {
		return false
	}
	o.pending = append(o.pending, line...)
	poke(o.work)
	return true
}

func (o *output) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropped++
}

// giveUp drops a line that has waited in vain.
func (o *output) giveUp() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropped++
	o.stuck = true
}

// dropIfStuck drops a line that would wait where another has in vain.
func (o *output) dropIfStuck() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stuck {
		o.dropped++
	}
	return o.stuck
}

func (o *output) run() {
	defer close(o.done)
	var spare []byte
	for {
		var over <-chan time.Time // a burst: its memory is kept no longer
		if cap(spare)+o.capacity() > maxPending/16 {
			over = time.After(quiet)
		}
		select {
		case <-o.work:
		case <-over:
			spare = nil
			o.shrink()
			continue
		}
		o.mu.Lock()
		batch, dropped, closed := o.pending, o.dropped, o.closed
		o.pending, o.dropped, o.stuck = spare[:0], 0, false
		o.mu.Unlock()
		poke(o.room)
		if dropped > 0 {
			batch = fmt.Appendf(batch, "forkd: %d lines dropped: this output was stuck\n", dropped)
		}
		// An output that fails has nobody to be told about it.
		_, _ = o.to.Write(batch)
		spare = batch
		if closed {
			return
		}
	}
}

// capacity is of the buffer that lines go to; the other one is run's.
func (o *output) capacity() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return cap(o.pending)
}

func (o *output) shrink() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.pending) == 0 {
		o.pending = nil
	}
}

// close writes what is left, for a second at most.
func (o *output) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	poke(o.work)
	select {
	case <-o.done:
	case <-time.After(patience):
	}
}

// poke puts a token into a channel that holds one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
