// Package pace limits how fast the master reads from a process that may flood it: the
// process's own writes wait, and the master's CPU time goes to the others.
package pace

import (
	"bytes"
	"io"
	"time"
)

// minRest is the shortest pause: a flood wakes its reader twenty times a second.
const minRest = 50 * time.Millisecond

// A Bucket is a token bucket of one second's worth, full at first. Not for concurrent use.
type Bucket struct {
	perSecond float64
	left      float64 // below 0: taken in advance
	at        time.Time
}

// New returns a Bucket for a rate per second.
func New(perSecond int, now time.Time) Bucket {
	return Bucket{perSecond: float64(perSecond), left: float64(perSecond), at: now}
}

// Take takes n tokens and returns how long to rest before the next; 0: not at all.
func (b *Bucket) Take(n int, now time.Time) time.Duration {
	b.left = min(b.perSecond, b.left+now.Sub(b.at).Seconds()*b.perSecond) - float64(n)
	b.at = now
	if b.left >= 0 {
		return 0
	}
	return max(minRest, time.Duration(-b.left/b.perSecond*float64(time.Second)))
}

// Rest waits for d, or until done is closed.
func Rest(d time.Duration, done <-chan struct{}) {
	if d > 0 {
		select {
		case <-time.After(d):
		case <-done:
		}
	}
}

// Reader reads no faster than at its rates, until done is closed.
type Reader struct {
	from         io.Reader
	bytes, lines Bucket
	done         <-chan struct{}
}

// NewReader returns a Reader. A nil done is never closed.
func NewReader(from io.Reader, bytesPerSecond, linesPerSecond int, done <-chan struct{}) *Reader {
	now := time.Now()
	return &Reader{from, New(bytesPerSecond, now), New(linesPerSecond, now), done}
}

func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	now := time.Now()
	Rest(max(r.bytes.Take(n, now), r.lines.Take(bytes.Count(p[:n], []byte{'\n'}), now)), r.done)
	return n, err
}
