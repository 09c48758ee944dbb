package output

import (
	"bytes"
	"slices"
	"sync"
)

// What is kept for describe.
const (
	tailLines = 200
	tailBytes = 32 << 10 // of all lines together
	tailLine  = 1 << 10  // of one, beyond which it is cut
)

// A Tail keeps the last lines of a worker's output, escape sequences and broken UTF-8
// included. A nil Tail stays empty. It is safe for concurrent use.
type Tail struct {
	mu    sync.Mutex
	ring  [tailLines][]byte
	next  int      // where the next line goes
	trace []string // since Trace, the first lines; nil: not called
	size  int      // of these
}

// Trace has the Tail keep the first lines that come from now on, tailBytes of them, in place
// of the last: a program is about to tell where it hangs, and that stands at the top.
func (t *Tail) Trace() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trace = []string{}
}

// add takes lines, and keeps a copy of them.
func (t *Tail) add(text []byte) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte{'\n'})
		t.addLine(line)
		text = rest
	}
}

func (t *Tail) addLine(line []byte) {
	if t.trace != nil {
		if t.size += len(line); t.size <= tailBytes && len(line) > 0 {
			t.trace = append(t.trace, string(line[:min(len(line), tailLine)]))
		}
		return
	}
	kept := append(t.ring[t.next][:0], line[:min(len(line), tailLine)]...)
	if len(line) > tailLine {
		kept = append(kept, "..."...)
	}
	t.ring[t.next] = kept
	t.next = (t.next + 1) % tailLines
}

// Lines returns the last lines, oldest first: at most tailLines with tailBytes.
// Empty ones are left out. After Trace the first ones since, if there are any.
func (t *Tail) Lines() []string {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.trace) > 0 {
		return slices.Clone(t.trace)
	}
	var lines []string
	size := 0
	for i := range tailLines {
		if line := bytes.TrimSuffix(t.ring[(t.next+i)%tailLines], []byte("\r")); len(line) > 0 {
			lines = append(lines, string(line))
			size += len(line)
		}
	}
	for ; size > tailBytes; lines = lines[1:] {
		size -= len(lines[0])
	}
	return lines
}
