package load

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// Kind sorts what can go wrong with a request, as the client sees it.
type Kind int

// What can go wrong.
const (
	Refused   Kind = iota // nobody listens
	Reset                 // the connection was cut: RST, or a write after it
	EOF                   // the connection was closed before the whole answer
	Timeout               // no whole answer in time
	BadStatus             // an answer that is not 200
	Malformed             // an answer that is none
	Local                 // the client itself could not: out of ports or descriptors
	kinds
)

func (k Kind) String() string {
	return [kinds]string{"refused", "reset", "eof", "timeout", "bad status", "malformed", "client"}[k]
}

// Failure is one request that was not answered. The client never tries again.
type Failure struct {
	Kind     Kind
	Port     uint16    // the client's own: it names the connection; 0 when there was none
	Opened   time.Time // when the connection was asked for
	At       time.Time
	Answered int // requests that the same connection had answered before
	Err      error
}

var (
	errBadStatus = errors.New("the status is not 200")
	errMalformed = errors.New("this is no HTTP answer")
)

// sort finds the kind of an error of dial, read or write, or of the parser.
func sort(err error) Kind {
	is := func(targets ...error) bool {
		for _, target := range targets {
			if errors.Is(err, target) {
				return true
			}
		}
		return false
	}
	switch {
	case is(errBadStatus):
		return BadStatus
	case is(errMalformed):
		return Malformed
	case is(syscall.ECONNREFUSED):
		return Refused
	case is(syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED):
		return Reset
	case is(io.EOF, io.ErrUnexpectedEOF):
		return EOF
	case is(os.ErrDeadlineExceeded, syscall.ETIMEDOUT):
		return Timeout
	default:
		return Local
	}
}

// Tally counts failures by kind.
type Tally [kinds]int

// Count sorts failures.
func Count(failures []Failure) Tally {
	var t Tally
	for _, f := range failures {
		t[f.Kind]++
	}
	return t
}

// Total is all of them.
func (t Tally) Total() int {
	sum := 0
	for _, n := range t {
		sum += n
	}
	return sum
}

// String is "0", or "5 (reset 3, eof 2)".
func (t Tally) String() string {
	var parts []string
	for k, n := range t {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%v %d", Kind(k), n))
		}
	}
	if len(parts) == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", t.Total(), strings.Join(parts, ", "))
}
