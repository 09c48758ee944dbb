package output

import (
	"regexp"
	"time"
)

// All is how many lines there are.
const All = -1

// A Query says which lines a reader wants.
type Query struct {
	N     int            // the newest N, or All
	Slot  *int           // of this slot; nil: of all, and of none
	Since time.Time      // later than this
	Grep  *regexp.Regexp // whose text it matches; nil: any
	Seen  uint64         // the Count of the reader's last Page; 0: it has had none

	Left <-chan struct{} // closed when the reader has: an expression may take seconds; nil: it waits
}

// look returns a written line and its time, and whether it is wanted; the zero time where it
// is none of ours.
func (q *Query) look(written []byte) (at time.Time, l Line, wanted bool) {
	r, ok := cutRecord(written)
	if !ok {
		return at, l, false
	}
	at, ok = r.at()
	if !ok || !at.After(q.Since) || q.Grep != nil && !q.Grep.Match(r.text) {
		return at, l, false
	}
	l = r.line(at)
	return at, l, q.Slot == nil || l.Slot != nil && *l.Slot == *q.Slot
}
