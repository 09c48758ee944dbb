package output

import (
	"bytes"
	"strconv"
	"time"
)

// Where a line comes from.
const (
	Stdout = "stdout"
	Stderr = "stderr"
	Forkd  = "forkd" // the master itself
)

// The levels of the master's own lines.
const (
	LevelInfo    = "info"
	LevelWarning = "warning"
	LevelError   = "error"
)

// A Line is a line of an app's log, as GET /v1/logs shows it. One of more than maxLine bytes
// is several.
type Line struct {
	Time       time.Time `json:"time"`       // no two lines of one master have the same
	Slot       *int      `json:"slot"`       // null: of no slot
	Generation *int      `json:"generation"` // null: of no worker
	PID        *int      `json:"pid"`        // of the worker; null: of none
	Stream     string    `json:"stream"`     // Stdout, Stderr, Forkd
	Level      string    `json:"level"`      // of the master's lines; "" else
	Line       string    `json:"line"`       // as it was written: escape sequences and broken UTF-8 included
}

// A Source is who writes lines. A negative number is none.
type Source struct {
	Slot, Generation, PID int
	Stream                string // Stdout, Stderr, or of the master a level
}

// Lines are written, and kept in memory and files, as
//
//	2026-11-28T07:01:10.123456+01:00 SLOT GENERATION PID STREAM TEXT
//
// where STREAM is stdout, stderr or the master's level, and - stands for what there is not.
const timeFormat = "2006-01-02T15:04:05.000000Z07:00"

func (s Source) header() []byte {
	header := []byte{' '}
	for _, n := range []int{s.Slot, s.Generation, s.PID} {
		if n < 0 {
			header = append(header, '-')
		} else {
			header = strconv.AppendInt(header, int64(n), 10)
		}
		header = append(header, ' ')
	}
	return append(append(header, s.Stream...), ' ')
}

// A record is a written line, cut into its fields.
type record struct {
	time, slot, generation, pid, stream, text []byte
}

// cutRecord cuts a written line, without its newline. It reports whether it is one.
func cutRecord(line []byte) (r record, ok bool) {
	for _, field := range []*[]byte{&r.time, &r.slot, &r.generation, &r.pid, &r.stream} {
		if *field, line, ok = bytes.Cut(line, []byte{' '}); !ok {
			return r, false
		}
	}
	r.text = line
	return r, true
}

func (r record) at() (time.Time, bool) {
	at, err := time.Parse(timeFormat, string(r.time))
	return at, err == nil
}

// ofMaster reports whether the master wrote it.
func (r record) ofMaster() bool {
	return string(r.stream) != Stdout && string(r.stream) != Stderr
}

func (r record) line(at time.Time) Line {
	l := Line{Time: at, Slot: number(r.slot), Generation: number(r.generation), PID: number(r.pid), Stream: string(r.stream), Line: string(r.text)}
	if r.ofMaster() {
		l.Stream, l.Level = Forkd, l.Stream
	}
	return l
}

// number is nil for what is none.
func number(field []byte) *int {
	n, err := strconv.Atoi(string(field))
	if err != nil || n < 0 {
		return nil
	}
	return &n
}

// A clock gives the lines of one master times that are never the same, and grow also where
// the system's clock is set back: by its time a reader finds the line to go on from.
type clock struct {
	last   time.Time
	second int64
	text   []byte // of last
}

const tick = time.Microsecond // the smallest step that is written

// append writes the next line's time. now may be that of many lines.
func (c *clock) append(to []byte, now time.Time) []byte {
	now = now.Truncate(tick)
	if next := c.last.Add(tick); now.Before(next) {
		now = next
	}
	c.last = now
	if now.Unix() != c.second || c.text == nil {
		c.second, c.text = now.Unix(), now.AppendFormat(c.text[:0], timeFormat)
	} else {
		micro := now.Nanosecond() / 1000
		for i := len("2006-01-02T15:04:05.000000") - 1; i > len("2006-01-02T15:04:05"); i-- {
			c.text[i] = byte('0' + micro%10)
			micro /= 10
		}
	}
	return append(to, c.text...)
}
