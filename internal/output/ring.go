package output

import "bytes"

// A ring keeps the newest lines of a slot, as they are written: in two halves, of which the
// older is given up when the newer is full. What it holds never changes, so that a copy of
// the ring can be read while lines are added.
type ring struct {
	older, newer []byte
	count        uint64 // lines that were added, ever
}

func (r *ring) add(line []byte, half int) {
	if len(r.newer)+len(line) > half && len(r.newer) > 0 {
		r.older, r.newer = r.newer, make([]byte, 0, half)
	}
	r.newer = append(r.newer, line...)
	r.count++
}

// backward calls f with the lines, the newest first and without their newlines, until it
// returns false.
func (r *ring) backward(f func(line []byte) bool) {
	for _, half := range [][]byte{r.newer, r.older} {
		for len(half) > 0 {
			half = half[:len(half)-1]
			from := bytes.LastIndexByte(half, '\n') + 1
			if !f(half[from:]) {
				return
			}
			half = half[:from]
		}
	}
}
