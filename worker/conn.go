package worker

import (
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lingerTime is how long a connection that a draining worker has closed is read
// on for the client's own close. Closed with a pipelined request unread, the
// kernel would send a reset, which may overtake the response.
const lingerTime = 500 * time.Millisecond

// Phase is what a connection is at, as far as a drain must know.
type Phase int32

const (
	fresh Phase = iota // accepted; a TLS handshake at most

	// Expecting is a connection whose server waits for the first byte of its
	// first request.
	Expecting
	// Busy is within a request.
	Busy
	// Idle is between two requests.
	Idle
	// Hijacked is the application's own.
	Hijacked

	closing   // was idle; its server is told that the client has closed
	lingering // closed by its server, half closed by us, read on
)

// conn is what is kept of each accepted connection. Its server's goroutine moves
// the phase; the drain's moves idle ones to closing.
type conn struct {
	accepted time.Time
	raw      net.Conn
	worker   *Worker
	set      *set
	phase    atomic.Int32
	closed   atomic.Bool // by its server
	ended    atomic.Bool // really
	refused  bool        // not counted as open; before it is in the set it is settled

	streams atomic.Bool  // it carries several requests at a time, see Multiplexed
	heard   atomic.Int64 // nanoseconds from accepted to when such a one was last heard between requests

	leaving atomic.Int32 // what a shed has done: kept, chosen, going
	restful atomic.Int64 // since when a shed has seen it idle; 0: not
	shed    *shed        // whose member it is; only that one's goroutine knows

	mu sync.Mutex // orders the read deadlines of expire and resume

	prev, next *conn // in its set, under the set's lock
}

func (c *conn) load() Phase { return Phase(c.phase.Load()) }

func (c *conn) move(from, to Phase) bool { return c.phase.CompareAndSwap(int32(from), int32(to)) }

// Mark says what a connection is at. Serve packages call it, for one connection
// on one goroutine, from the server's hook for connection states. nc is as the
// server has it: a TLS connection or another wrapper around one accepted here.
// Other connections are let pass.
func Mark(nc net.Conn, p Phase) {
	c := tracked(nc)
	if c == nil {
		return
	}
	switch p {
	case Expecting:
		if !c.move(fresh, Expecting) {
			c.busy()
		}
	case Busy:
		c.busy()
	case Idle:
		c.move(Busy, Idle)
	case Hijacked:
		c.busy()
		c.move(Busy, Hijacked)
	case fresh, closing, lingering:
		// Nobody else's to say.
	}
}

// Multiplexed says that a connection carries several requests at a time, as in
// HTTP/2. Serve packages call it when they know. What the client of such a one
// sends between requests need not be the beginning of one, and none may follow:
// only Mark says what it is at.
func Multiplexed(nc net.Conn) {
	if c := tracked(nc); c != nil && !c.streams.Load() {
		c.streams.Store(true)
	}
}

// busy: a request has begun.
func (c *conn) busy() {
	for {
		switch p := c.load(); p {
		case Busy, Hijacked, lingering:
			return
		case closing:
			c.resume(Busy)
		default:
			c.move(p, Busy)
		}
	}
}

// expire makes the server of an idle connection believe that the client has
// closed: the read it waits in ends, and the phase turns that into EOF. So the
// server closes it in its own time, and a request that was faster is served.
func (c *conn) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.load()
	if p == closing || p.idle() && c.move(p, closing) {
		// Again for a closing one: its server may have set a deadline since.
		_ = c.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

// resume takes expire back: the client was faster. The phase becomes to.
func (c *conn) resume(to Phase) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.move(closing, to) {
		_ = c.raw.SetReadDeadline(time.Time{})
	}
}

// idle reports whether nothing is lost when a connection is closed now.
func (p Phase) idle() bool { return p == fresh || p == Expecting || p == Idle }

// read follows what a read into p returned.
func (c *conn) read(p []byte, n int, err error) (int, error) {
	phase := c.load()
	if n == 0 && phase == closing && errors.Is(err, os.ErrDeadlineExceeded) {
		if n, err = c.already(p), nil; n == 0 {
			return 0, io.EOF
		}
	}
	switch {
	case n == 0 || phase == fresh:
	case c.streams.Load():
		if phase == Idle || phase == closing {
			c.heard.Store(int64(time.Since(c.accepted)))
			c.resume(Idle)
		}
	default:
		c.busy()
	}
	return n, err
}

// already reads what has arrived, as net.Conn does not after its deadline: a
// request that was here when the connection was told to close is still served.
func (c *conn) already(p []byte) (n int) {
	sc, ok := c.raw.(syscall.Conn)
	if !ok {
		return 0
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return 0
	}
	_ = rc.Control(func(fd uintptr) { n, _, _ = unix.Recvfrom(int(fd), p, unix.MSG_DONTWAIT) })
	return max(0, n)
}

// close is Close for the server. While the worker drains, or sheds it, it
// half-closes and lingers; a hijacked connection is the application's, and closed as it is.
func (c *conn) close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	half, ok := c.raw.(interface{ CloseWrite() error })
	if ok && !c.refused && (c.worker.orders.draining() || c.leaving.Load() == going) && c.load() != Hijacked && half.CloseWrite() == nil {
		c.phase.Store(int32(lingering))
		go c.linger()
		return nil
	}
	return c.end()
}

func (c *conn) linger() {
	_ = c.raw.SetReadDeadline(time.Now().Add(lingerTime))
	var sink [4096]byte
	for {
		if _, err := c.raw.Read(sink[:]); err != nil {
			_ = c.end()
			return
		}
	}
}

// cut closes a connection whatever it is at.
func (c *conn) cut() {
	c.closed.Store(true)
	_ = c.end()
}

// end really closes a connection and forgets it.
func (c *conn) end() error {
	if c.ended.Swap(true) {
		return net.ErrClosed
	}
	err := c.raw.Close()
	c.set.remove(c)
	if !c.refused {
		c.worker.page.Closed()
	}
	return err
}

// The accepted connections as a server sees them. Embedding the concrete types
// keeps their other methods: ReadFrom, and with it sendfile(2), CloseWrite,
// SyscallConn.
type (
	tcpConn struct {
		*net.TCPConn
		conn conn
	}
	unixConn struct {
		*net.UnixConn
		conn conn
	}
	otherConn struct {
		net.Conn
		conn conn
	}
)

func (c *tcpConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if c.conn.load() != Busy {
		return c.conn.read(p, n, err)
	}
	return n, err
}

func (c *unixConn) Read(p []byte) (int, error) {
	n, err := c.UnixConn.Read(p)
	return c.conn.read(p, n, err)
}

func (c *otherConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return c.conn.read(p, n, err)
}

func (c *tcpConn) Close() error   { return c.conn.close() }
func (c *unixConn) Close() error  { return c.conn.close() }
func (c *otherConn) Close() error { return c.conn.close() }

// tracked finds what is kept of a connection, through wrappers: those with a
// NetConn method (crypto/tls) and structs that embed a net.Conn (fasthttp's
// MaxConnsPerIP, x/net/netutil). It is nil for one that was not accepted here.
func tracked(nc net.Conn) *conn {
	for nc != nil {
		switch c := nc.(type) {
		case *tcpConn:
			return &c.conn
		case *unixConn:
			return &c.conn
		case *otherConn:
			return &c.conn
		case interface{ NetConn() net.Conn }:
			nc = c.NetConn()
		default:
			nc = embedded(nc)
		}
	}
	return nil
}

func embedded(nc net.Conn) net.Conn {
	v := reflect.Indirect(reflect.ValueOf(nc))
	if v.Kind() != reflect.Struct {
		return nil
	}
	f, ok := v.Type().FieldByName("Conn")
	if !ok || !f.Anonymous || len(f.Index) != 1 {
		return nil
	}
	inner, _ := reflect.TypeAssert[net.Conn](v.FieldByIndex(f.Index))
	return inner
}
