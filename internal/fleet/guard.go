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

// limits bound the replies of a server. A client allocates what a server announces.
type limits struct {
	bulk     int64 // bytes of a string
	elements int64 // of all arrays of a reply together
	exchange int64 // bytes of all replies since the last request
}

const (
	maxLine   = 64 << 10 // bytes
	maxArrays = 16 << 10 // of a reply: a client may recurse so deep. COMMAND has some thousands
)

func reporterLimits() limits {
	return limits{bulk: 1 << 20, elements: 64 << 10, exchange: 16 << 20}
}

func readerLimits() limits {
	return limits{bulk: 16 << 20, elements: 1 << 20, exchange: 64 << 20}
}

// errNotRedis is the error of a reply that is not in Redis's protocol: of a web
// server, for example.
var errNotRedis = errors.New("what answers there does not speak Redis's protocol")

// tooLarge is the error of a reply beyond the limits.
type tooLarge string

func (e tooLarge) Error() string { return string(e) }

// guard parses what is read from a connection, and fails before the client has seen
// an announcement beyond the limits.
type guard struct {
	net.Conn

	replies  replies
	asked    atomic.Bool // since the last Read
	received int64       // bytes since the last request
	failed   error
	unwatch  func() bool // life's end does not close the connection any more
}

// guarded wraps conn, which closes when life ends. The descriptor stays accessible
// where conn has one: the client asks it whether the other side has closed.
func guarded(life context.Context, conn net.Conn, l limits) net.Conn {
	if local, ok := conn.(*net.UnixConn); ok {
		conn = closing.NewConn(local, new(closing.Closer)) // Redis may be another user's
	}
	g := &guard{Conn: conn, replies: replies{limits: l}, unwatch: context.AfterFunc(life, func() { _ = conn.Close() })}
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
		g.received = 0
	}
	if g.received += int64(n); g.received > g.replies.limits.exchange {
		g.failed = tooLarge(fmt.Sprintf("answers of more than %d bytes at once are not taken", g.replies.limits.exchange))
	} else {
		g.failed = g.replies.feed(p[:n])
	}
	if g.failed != nil {
		return 0, g.failed
	}
	return n, err
}

func (g *guard) Close() error {
	g.unwatch()
	return g.Conn.Close()
}

func (g *guard) Write(p []byte) (int, error) {
	g.asked.Store(true)
	return g.Conn.Write(p)
}

// replies parses the headers in a stream of replies in RESP, version 2, or 3 with a
// Sentinel (redis.io/docs/latest/develop/reference/protocol-spec). Its size is
// constant.
type replies struct {
	limits limits

	pending  int64    // values of this reply that are still to come
	skip     int64    // bytes of a string, with its line end, that are still to come
	head     [24]byte // the beginning of the line under way
	length   int      // of the line under way
	elements int64    // announced by this reply
	arrays   int      // of this reply
}

func (r *replies) feed(b []byte) error {
	for len(b) > 0 {
		if r.skip > 0 {
			n := min(r.skip, int64(len(b)))
			r.skip, b = r.skip-n, b[n:]
			continue
		}
		line, rest, ends := bytes.Cut(b, []byte("\n"))
		if r.length < len(r.head) {
			copy(r.head[r.length:], line)
		}
		r.length += len(line)
		switch {
		case r.length > 0 && bytes.IndexByte([]byte("+-:$*_,#!=(%~>|"), r.head[0]) < 0:
			return errNotRedis
		case r.length > maxLine:
			return tooLarge(fmt.Sprintf("a line of more than %d bytes is not taken", maxLine))
		case !ends:
			return nil
		}
		if err := r.header(); err != nil {
			return err
		}
		b, r.length = rest, 0
	}
	return nil
}

// header checks a whole line: a value, or the beginning of one.
func (r *replies) header() error {
	if r.length == 0 {
		return errNotRedis
	}
	if r.pending == 0 {
		r.pending, r.elements, r.arrays = 1, 0, 0
	}
	r.pending--
	kind := r.head[0]
	if bytes.IndexByte([]byte("$!=*~>%|"), kind) < 0 {
		return nil
	}
	n, err := strconv.ParseInt(string(bytes.TrimSuffix(r.head[1:min(r.length, len(r.head))], []byte("\r"))), 10, 64)
	switch {
	case err != nil || n < -1 || r.length > len(r.head):
		return errNotRedis
	case n == -1:
		return nil
	case bytes.IndexByte([]byte("$!="), kind) >= 0:
		if n > r.limits.bulk {
			return tooLarge(fmt.Sprintf("a string of %d bytes is not taken: %d at most", n, r.limits.bulk))
		}
		r.skip = n + int64(len("\r\n"))
		return nil
	case n > r.limits.elements-r.elements:
		return tooLarge(fmt.Sprintf("an answer with an array of %d elements is not taken: %d at most in all", n, r.limits.elements))
	case r.arrays == maxArrays:
		return tooLarge(fmt.Sprintf("an answer of more than %d arrays is not taken", maxArrays))
	}
	r.elements, r.arrays = r.elements+n, r.arrays+1
	switch kind {
	case '%': // pairs
		n *= 2
	case '|': // pairs, and then the value that they belong to
		n = 2*n + 1
	}
	r.pending += n
	return nil
}
