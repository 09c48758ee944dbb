package workerlink

import "errors"

const (
	// maxWaiting bounds the applications' lines that wait for one worker to read, in
	// bytes.
	maxWaiting = 2 << 20
	// maxOwn bounds how many of forkd's own messages wait: more than an honest worker
	// ever has.
	maxOwn = 8
)

// errFull refuses an application's message: its worker does not read. The sender
// counts it as dropped.
var errFull = errors.New("cannot hand over the message: 2 MiB of them wait already, the worker does not read its channel")

// outbox is what waits to be written to one worker: the rest of a line that is half
// out, then forkd's own messages, then the applications' lines, each in the order
// they came.
type outbox struct {
	begun []byte
	own   [][]byte
	lines [][]byte // shared, not to be written to

	waiting int // bytes of begun, of lines, and of what next returned last
	leaving int // of those, the latter
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

// begin keeps the rest of a line that the socket has taken a part of.
func (o *outbox) begin(rest []byte) {
	o.begun = rest
	o.waiting += len(rest)
}

// putOwn keeps one of forkd's own. Where too many wait, a drain replaces the last of
// them; another is dropped: the worker does not read.
func (o *outbox) putOwn(line []byte, drain bool) {
	switch {
	case len(o.own) < maxOwn:
		o.own = append(o.own, line)
	case drain:
		o.own[maxOwn-1] = line
	}
}

// next is what to write now, nil for nothing more; what it returned before is out.
func (o *outbox) next() (line []byte) {
	o.waiting -= o.leaving
	o.leaving = 0
	switch {
	case o.begun != nil:
		line, o.begun = o.begun, nil
		o.leaving = len(line)
	case len(o.own) > 0:
		line, o.own = o.own[0], o.own[1:]
	case len(o.lines) > 0:
		line = o.lines[0]
		o.lines[0] = nil
		o.lines = o.lines[1:]
		o.leaving = len(line)
	default:
		*o = outbox{} // a burst is over: its memory is not kept
	}
	return line
}
