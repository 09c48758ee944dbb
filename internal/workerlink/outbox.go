package workerlink

import "errors"

const (
	maxWaiting = 2 << 20 // bytes of applications' lines that wait for one worker
	maxOwn     = 8       // forkd's own messages that wait
)

// errFull refuses an application's message; the sender counts it as dropped.
var errFull = errors.New("cannot hand over the message: 2 MiB of them wait already, the worker does not read its channel")

// outbox is what waits to be written to one worker: the rest of a line that is half out and
// forkd's own messages, then the applications' lines.
type outbox struct {
	own   [][]byte
	lines [][]byte // shared, not to be written to

	waiting int // bytes of lines, and of the line that next returned last
	writing int // bytes of the latter
}

// put keeps an application's line, or refuses it.
func (o *outbox) put(line []byte) error {
	if o.waiting+len(line) > maxWaiting {
		return errFull
	}
	o.lines = append(o.lines, line)
	o.waiting += len(line)
	return nil
}

// begin keeps the rest of a line that the socket has taken a part of. Nothing else waits.
func (o *outbox) begin(rest []byte) { o.own = [][]byte{rest} }

// putOwn keeps one of forkd's own. If too many wait, a drain replaces the last of them, and
// others are dropped.
func (o *outbox) putOwn(line []byte, drain bool) {
	switch {
	case len(o.own) < maxOwn:
		o.own = append(o.own, line)
	case drain:
		o.own[maxOwn-1] = line
	}
}

// next is what to write now, nil: nothing. The line that it returned before is written.
func (o *outbox) next() (line []byte) {
	o.waiting -= o.writing
	o.writing = 0
	switch {
	case len(o.own) > 0:
		line, o.own = o.own[0], o.own[1:]
	case len(o.lines) > 0:
		line = o.lines[0]
		o.lines[0] = nil
		o.lines = o.lines[1:]
		o.writing = len(line)
	default:
		*o = outbox{} // a burst is over: its memory is not kept
	}
	return line
}
