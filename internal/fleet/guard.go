package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/forkd/forkd/internal/closing"
)

// limits is how much of an answer is taken. A client believes the lengths that a
// server announces, and makes room for them: these are what is believed.
type limits struct {
	bulk     int64 // bytes of one string
	elements int64 // of all arrays of one answer together
	answer   int64 // bytes of one answer
	exchange int64 // bytes of all answers since something was last asked; 0: no limit
}

const (
	maxLine  = 64 << 10 // bytes of a line
	maxDepth = 16       // arrays in arrays: COMMAND answers with 8
)

func reporterLimits() limits {
	return limits{bulk: 1 << 20, elements: 64 << 10, answer: 4 << 20, exchange: 16 << 20}
}

func readerLimits() limits {
	return limits{bulk: 16 << 20, elements: 1 << 20, answer: 64 << 20, exchange: 64 << 20}
}

// errNotRedis is of an answer that is not in Redis's protocol: of a web server, say.
var errNotRedis = errors.New("what answers there does not speak Redis's protocol")

// tooLarge is the error of an answer beyond the limits.
type tooLarge string

func (e tooLarge) Error() string { return string(e) }

// guard reads along with what comes over a connection, and fails it before a
// client has seen an announcement that is beyond the limits.
type guard struct {
	net.Conn

	answers answers
	asked   atomic.Bool // since the last Read
	came    int64       // bytes since then
	failed  error
	outlive func() bool // life's end does not close it any more
}

// guarded wraps conn, which closes when life ends. What the client looks for is kept: a file descriptor that it
// can ask whether the other side has closed.
func guarded(life context.Context, conn net.Conn, l limits) net.Conn {
	if local, ok := conn.(*net.UnixConn); ok {
		conn = closing.NewConn(local, new(closing.Closer)) // Redis may be another user's
	}
	g := &guard{Conn: conn, answers: answers{limits: l}, outlive: context.AfterFunc(life, func() { _ = conn.Close() })}
	if raw, ok := conn.(syscall.Conn); ok {
		return struct {
			*guard
			syscall.Conn
		}{g, raw}
	}
	return g
}

func (g *guard) Read(p []byte) (int, error) {
	if g.failed != nil {
		return 0, g.failed
	}
	n, err := g.Conn.Read(p)
	if g.asked.Swap(false) {
		g.came = 0
	}
	if g.came += int64(n); g.answers.limits.exchange > 0 && g.came > g.answers.limits.exchange {
		g.failed = tooLarge(fmt.Sprintf("answers of more than %d bytes at once are not taken", g.answers.limits.exchange))
		return 0, g.failed
	}
	if g.failed = g.answers.feed(p[:n]); g.failed != nil {
		return 0, g.failed
	}
	return n, err
}

func (g *guard) Close() error {
	g.outlive()
	return g.Conn.Close()
}

func (g *guard) Write(p []byte) (int, error) {
	g.asked.Store(true)
	return g.Conn.Write(p)
}

// answers follows a stream of answers in RESP, version 2 or 3
// (redis.io/docs/latest/develop/reference/protocol-spec): only the headers, the
// rest is counted. It keeps a few bytes, whatever comes.
type answers struct {
	limits limits

	open     []int64  // what each open array still waits for, the outermost first
	skip     int64    // bytes of a string, with its line end, that are yet to come
	kind     byte     // of the line under way; 0: none
	length   int64    // of the line under way
	number   [24]byte // its beginning
	bytes    int64    // of this answer
	elements int64    // of this answer
}

func (a *answers) feed(b []byte) error {
	for len(b) > 0 {
		n, err := a.next(b)
		if err != nil {
			return err
		}
		b = b[n:]
		if a.bytes += int64(n); a.bytes > a.limits.answer {
			return tooLarge(fmt.Sprintf("an answer of more than %d bytes is not taken", a.limits.answer))
		}
		if a.skip == 0 && a.kind == 0 && len(a.open) == 0 {
			a.bytes, a.elements = 0, 0
		}
	}
	return nil
}

// next takes some of b, at least a byte.
func (a *answers) next(b []byte) (int, error) {
	switch {
	case a.skip > 0:
		n := min(a.skip, int64(len(b)))
		if a.skip -= n; a.skip == 0 {
			a.done()
		}
		return int(n), nil
	case a.kind == 0:
		if bytes.IndexByte([]byte("+-:$*_,#!=(%~>|"), b[0]) < 0 {
			return 0, errNotRedis
		}
		a.kind, a.length = b[0], 0
		return 1, nil
	}
	n := bytes.IndexByte(b, '\n')
	ends := n >= 0
	if !ends {
		n = len(b)
	}
	if a.length < int64(len(a.number)) {
		copy(a.number[a.length:], b[:n])
	}
	if a.length += int64(n); a.length > maxLine {
		return 0, tooLarge(fmt.Sprintf("a line of more than %d bytes is not taken", maxLine))
	}
	if !ends {
		return n, nil
	}
	return n + 1, a.line()
}

// line is the end of one.
func (a *answers) line() error {
	kind := a.kind
	a.kind = 0
	switch kind {
	case '$', '!', '=', '*', '~', '>', '%', '|':
	default:
		a.done()
		return nil
	}
	if a.length > int64(len(a.number)) {
		return errNotRedis
	}
	n, err := strconv.ParseInt(string(bytes.TrimSuffix(a.number[:a.length], []byte("\r"))), 10, 64)
	switch {
	case err != nil || n < -1:
		return errNotRedis
	case n == -1:
		a.done()
		return nil
	}
	switch kind {
	case '$', '!', '=':
		if n > a.limits.bulk {
			return tooLarge(fmt.Sprintf("a string of %d bytes is not taken: %d at most", n, a.limits.bulk))
		}
		a.skip = n + int64(len("\r\n"))
		return nil
	}
	size := n
	if kind == '%' || kind == '|' {
		n = 2 * min(n, a.limits.elements) // pairs
	}
	if n > a.limits.elements-a.elements {
		return tooLarge(fmt.Sprintf("an answer with an array of %d elements is not taken: %d at most in all", size, a.limits.elements))
	}
	if kind == '|' {
		n++ // attributes are followed by what they are of
	}
	a.elements += n
	switch {
	case n == 0:
		a.done()
	case len(a.open) == maxDepth:
		return tooLarge(fmt.Sprintf("an answer of arrays in arrays, more than %d deep, is not taken", maxDepth))
	default:
		a.open = append(a.open, n)
	}
	return nil
}

// done is the end of a value, and of the arrays whose last it was.
func (a *answers) done() {
	for last := len(a.open) - 1; last >= 0; last-- {
		if a.open[last]--; a.open[last] > 0 {
			return
		}
		a.open = a.open[:last]
	}
}
