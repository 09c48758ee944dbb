package workerlink

import (
	"errors"

	"github.com/forkd/forkd/ipc"
)

// maxWaiting bounds the applications' lines that wait for one worker to read, in
// bytes.
const maxWaiting = 2 << 20

// maxDrains bounds how many drains wait for one worker. There are as many as
// stop signals, for each must find its own (see package worker's drain): a roll's, a
// stop's, hardly more.
const maxDrains = 4

// errFull refuses an application's message: its worker does not read. Whoever
// sends counts it as dropped.
var errFull = errors.New("cannot hand over the message: 2 MiB of them wait already, the worker does not read its channel")

// outbox is what waits to be written to one worker: the rest of a line that is
// half out, then forkd's own messages, then the applications' lines, each in the
// order they came.
type outbox struct {
	begun []byte
	own   []letter
	lines [][]byte // shared, not to be written to

	waiting int // bytes of begun, of lines, and of what next returned last
	leaving int // of those, the latter
}

// letter is one of forkd's own messages.
type letter struct {
	message ipc.Message
	line    []byte
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

// putOwn keeps one of forkd's own. However many there are, few wait: a shed is
// added to one right before it, and of too many drains the newest takes the place
// of the one before it.
func (o *outbox) putOwn(m ipc.Message, line []byte) {
	last := len(o.own) - 1
	switch m := m.(type) {
	case ipc.Shed:
		if last < 0 {
			break
		}
		if waits, ok := o.own[last].message.(ipc.Shed); ok {
			o.own[last] = joined(waits, m, o.own[last])
			return
		}
	case ipc.Drain:
		drains, at := 0, 0
		for i, l := range o.own {
			if _, ok := l.message.(ipc.Drain); ok {
				drains, at = drains+1, i
			}
		}
		if drains >= maxDrains {
			o.own[at] = letter{m, line}
			return
		}
	}
	o.own = append(o.own, letter{m, line})
}

// joined is two sheds in one; without, the first of them alone.
func joined(a, b ipc.Shed, first letter) letter {
	both := ipc.Shed{Count: min(a.Count+b.Count, 1<<30), Over: max(a.Over, b.Over)}
	line, err := ipc.Encode(both)
	if err != nil {
		return first
	}
	return letter{both, line}
}

// next is what to write now, nil for nothing more; what it returned before is
// out.
func (o *outbox) next() []byte {
	o.waiting -= o.leaving
	o.leaving = 0
	switch {
	case o.begun != nil:
		line := o.begun
		o.begun = nil
		o.leaving = len(line)
		return line
	case len(o.own) > 0:
		line := o.own[0].line
		o.own = o.own[1:]
		return line
	case len(o.lines) > 0:
		line := o.lines[0]
		o.lines[0] = nil
		o.lines = o.lines[1:]
		o.leaving = len(line)
		return line
	default:
		*o = outbox{} // a burst is over: its memory is not kept
		return nil
	}
}
