package output

import (
	"bytes"
	"slices"
	"sync"
)

// What is kept for describe.
const (
	tailLines = 20
	tailBytes = 8 << 10 // of all lines together
	tailLine  = 1 << 10 // of one, beyond which it is cut
)

// A Tail keeps the last lines of a worker's output as they came, escape sequences
// and broken UTF-8 included. Its zero value is empty; a nil one takes and has
// nothing. It is safe for concurrent use.
type Tail struct {
	mu   sync.Mutex
	ring [tailLines][]byte
	next int // where the next line goes
}

// add takes a line, without its newline, and keeps a copy.
func (t *Tail) add(line []byte) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := append(t.ring[t.next][:0], line[:min(len(line), tailLine)]...)
	if len(line) > tailLine {
		kept = append(kept, "..."...)
	}
	t.ring[t.next] = kept
	t.next = (t.next + 1) % tailLines
}

// Lines returns the last lines, oldest first: at most tailLines with tailBytes.
// Empty ones are left out.
func (t *Tail) Lines() []string {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	room := tailBytes
	for i := 1; i <= tailLines; i++ {
		line := bytes.TrimSuffix(t.ring[(t.next-i+tailLines)%tailLines], []byte("\r"))
		if len(line) == 0 {
			continue
		}
		if room -= len(line); room < 0 {
			break
		}
		lines = append(lines, string(line))
	}
	slices.Reverse(lines)
	return lines
}
