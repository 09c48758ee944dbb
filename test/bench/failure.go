package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// kind sorts what can go wrong with a request, as the client sees it.
type kind int

const (
	refused   kind = iota // nobody listens
	reset                 // the connection was cut: RST, or a write after it
	eof                   // the connection was closed before the whole answer
	timeout               // no whole answer in time
	badStatus             // an answer that is not 200
	malformed             // an answer that is none
	local                 // the client itself could not: out of ports or descriptors
	kinds
)

func (k kind) String() string {
	return [kinds]string{"refused", "reset", "eof", "timeout", "bad status", "malformed", "client"}[k]
}

// failure is one request that was not answered. The client never tries again.
type failure struct {
	kind     kind
	port     uint16    // the client's own: it names the connection; 0 when there was none
	opened   time.Time // when the connection was asked for
	at       time.Time
	answered int // requests that the same connection had answered before
	err      error
}

var (
	errBadStatus = errors.New("the status is not 200")
	errMalformed = errors.New("this is no HTTP answer")
)

// sort finds the kind of an error of dial, read or write, or of the parser.
func sort(err error) kind {
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
		return badStatus
	case is(errMalformed):
		return malformed
	case is(syscall.ECONNREFUSED):
		return refused
	case is(syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED):
		return reset
	case is(io.EOF, io.ErrUnexpectedEOF):
		return eof
	case is(os.ErrDeadlineExceeded, syscall.ETIMEDOUT):
		return timeout
	default:
		return local
	}
}

// tally counts failures by kind.
type tally [kinds]int

func count(failures []failure) tally {
	var t tally
	for _, f := range failures {
		t[f.kind]++
	}
	return t
}

func (t tally) total() int {
	sum := 0
	for _, n := range t {
		sum += n
	}
	return sum
}

// String is "0", or "5 (reset 3, eof 2)".
func (t tally) String() string {
	var parts []string
	for k, n := range t {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%v %d", kind(k), n))
		}
	}
	if len(parts) == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", t.total(), strings.Join(parts, ", "))
}
