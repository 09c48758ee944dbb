package worker

import (
	"bytes"
	"container/list"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

// lingerTimeout bounds the lingering close of a draining worker. If a connection is
// closed with a pipelined request unread, the kernel sends a reset, which may
// overtake the response.
const lingerTimeout = 500 * time.Millisecond

// Phase is what a connection does, as far as a drain must know.
type Phase int32

const (
	phaseNew Phase = iota // accepted; a TLS handshake at most

	// Expecting waits for the first byte of the first request.
	Expecting
	// Busy is within a request.
	Busy
	// Idle is between two requests.
	Idle
	// Hijacked is the application's own.
	Hijacked

	closing   // was idle; its server is told that the client has closed
	moving    // the same, and its Close hands the connection to another worker
	lingering // closed by its server, half closed, read until the client closes
)

// Marks of a connection, in conn.mark.
const (
	unmarked int32 = iota
	marked         // its next response is to be the last
	told           // its client has been told, or it is being closed: this is final
)

// conn is the state of an accepted connection. The server's goroutine sets the
// phase; a drain or a shed sets idle ones to closing.
type conn struct {
	accepted time.Time
	raw      net.Conn
	listener *listener
	element  *list.Element // in the listener's list
	phase    atomic.Int32
	closed   atomic.Bool // by its server
	ended    atomic.Bool // its socket is closed
	refused  bool        // over the limit, not counted as open; known before it is listed

	multiplexed atomic.Bool  // see Multiplexed
	lastRead    atomic.Int64 // of a multiplexed one: the last bytes between requests, in ns from accepted

	frame   frame
	unclean atomic.Bool // when it was idle last, a part of another request had been read
	going   atomic.Bool // its server's Close hands it over
	moved   bool        // from another worker, which may have a copy still
	refuser *sender     // has failed to hand it over; another one may
	kept    int         // responses of a drain that were not the last

	served    atomic.Bool  // by Worker.Serve
	mark      atomic.Int32 // see unmarked
	idleSince atomic.Int64 // as a shed saw it, in ns from accepted; 0: not idle

	mu sync.Mutex // orders the read deadlines of expire and resume
}

func (c *conn) load() Phase { return Phase(c.phase.Load()) }

// move looks first: a swap that fails takes as long as one that does not.
func (c *conn) move(from, to Phase) bool {
	return c.load() == from && c.phase.CompareAndSwap(int32(from), int32(to))
}

// Mark sets the phase of a connection. Serve packages call it from the server's
// connection state callback, for one connection on one goroutine. nc may be a
// wrapper (TLS) around a connection accepted here. Others are ignored.
func Mark(nc net.Conn, p Phase) {
	c := tracked(nc)
	if c == nil {
		return
	}
	switch p {
	case Expecting:
		if !c.move(phaseNew, Expecting) {
			c.setBusy()
		}
	case Busy:
		c.setBusy()
	case Idle:
		if !c.multiplexed.Load() {
			if unclean := !c.frame.clean(); unclean != c.unclean.Load() {
				c.unclean.Store(unclean)
			}
		}
		c.move(Busy, Idle)
	case Hijacked:
		c.setBusy()
		c.move(Busy, Hijacked)
	case phaseNew, closing, moving, lingering:
		// Only this package sets these.
	}
}

// Multiplexed says that a connection carries several requests at a time, as in
// HTTP/2. Bytes between requests then need not be the beginning of one: only Mark
// makes the connection busy.
func Multiplexed(nc net.Conn) {
	if c := tracked(nc); c != nil && !c.multiplexed.Load() {
		c.multiplexed.Store(true)
	}
}

// setBusy follows the beginning of a request.
func (c *conn) setBusy() {
	for {
		switch p := c.load(); p {
		case Busy, Hijacked, lingering:
			return
		case closing, moving:
			c.resume(Busy)
		default:
			c.move(p, Busy)
		}
	}
}

// expire ends an idle connection by way of its server: the server's read ends with EOF,
// as if the client had closed. A request that is faster is served. to is closing or
// moving.
func (c *conn) expire(to Phase) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.load()
	if p == to || (p.idle() || p == moving) && c.move(p, to) {
		// Again if it is in this phase: the server may have set a deadline since.
		_ = c.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

// resume undoes expire: the client was faster, or the connection can't be handed over
// any more.
func (c *conn) resume(to Phase) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.move(closing, to) || c.move(moving, to) {
		_ = c.raw.SetReadDeadline(time.Time{})
	}
}

// idle reports whether nothing is lost if the connection is closed in this phase.
func (p Phase) idle() bool { return p == phaseNew || p == Expecting || p == Idle }

// newConnGrace is how long a connection without a request counts as busy after
// accept: its first request may be in flight, or not yet read. The same goes for a
// multiplexed one after each read.
const newConnGrace = time.Second

// idle reports whether nothing is lost if the connection is closed now.
func (c *conn) idle() bool {
	p := c.load()
	age := time.Since(c.accepted)
	isNew := (p == phaseNew || p == Expecting) && age < newConnGrace
	justRead := c.multiplexed.Load() && age-time.Duration(c.lastRead.Load()) < newConnGrace
	return p.idle() && !isNew && !justRead
}

// read is Read for the server, and follows its phase.
func (c *conn) read(p []byte) (int, error) {
	if c.leaves() {
		return 0, io.EOF
	}
	n, err := c.raw.Read(p)
	phase := c.load()
	for n == 0 && phase == moving && errors.Is(err, os.ErrDeadlineExceeded) {
		if c.leaves() { // what arrives now is for whoever gets the connection
			return 0, io.EOF
		}
		c.resume(Idle)
		n, err = c.raw.Read(p)
		phase = c.load()
	}
	if n == 0 && phase == closing && errors.Is(err, os.ErrDeadlineExceeded) {
		if n, err = c.readQueued(p), nil; n == 0 {
			return 0, io.EOF
		}
	}
	if n > 0 && phase != Hijacked && !c.multiplexed.Load() { // frames of HTTP/2 are read by another goroutine than Mark's
		c.frame.read(p[:n], phase != Busy)
		if phase != Busy && bytes.HasPrefix(p[:n], []byte("PRI ")) { // HTTP/2's preface ends as a head does (RFC 9113, section 3.4)
			c.multiplexed.Store(true)
		}
	}
	switch {
	case n == 0 || phase == phaseNew:
	case c.multiplexed.Load():
		if phase == Idle || phase == closing {
			c.lastRead.Store(int64(time.Since(c.accepted)))
			c.resume(Idle)
		}
	default:
		c.setBusy()
	}
	return n, err
}

// readQueued reads what has arrived, which net.Conn does not do after its deadline:
// a request that came before the close is served.
func (c *conn) readQueued(p []byte) (n int) {
	if rc, err := c.socket(); err == nil {
		_ = rc.Control(func(fd uintptr) { n, _, _ = unix.Recvfrom(int(fd), p, unix.MSG_DONTWAIT) })
	}
	return max(0, n)
}

// close is Close for the server. In a drain or a shed it is a lingering close, but
// for hijacked connections.
func (c *conn) close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	if c.going.Load() {
		c.listener.worker.handOver(c)
		return nil
	}
	half, ok := c.raw.(interface{ CloseWrite() error })
	if ok && c.moved { // a copy elsewhere must not keep the client waiting for the end
		_ = half.CloseWrite()
	}
	leaving := c.listener.worker.drain.active() || c.mark.Load() == told
	if ok && leaving && !c.refused && c.load() != Hijacked && half.CloseWrite() == nil {
		c.phase.Store(int32(lingering))
		go c.linger()
		return nil
	}
	return c.end()
}

func (c *conn) linger() {
	_ = c.raw.SetReadDeadline(time.Now().Add(lingerTimeout))
	_, _ = io.Copy(io.Discard, c.raw)
	_ = c.end()
}

// cut closes a connection in any phase.
func (c *conn) cut() {
	c.closed.Store(true)
	_ = c.end()
}

// end closes the socket and takes the connection out of its listener's list.
func (c *conn) end() error {
	if c.ended.Swap(true) {
		return net.ErrClosed
	}
	err := c.raw.Close()
	if !c.refused {
		c.listener.worker.page.Closed() // before the drain can end
	}
	c.listener.remove(c)
	return err
}

// programsOwn reports whether only the program knows how to end the connection: it
// is hijacked, or its listener is not served by Serve and Mark was never called.
func (c *conn) programsOwn() bool {
	p := c.load()
	return p == Hijacked || p == phaseNew && !c.served.Load()
}

// closeIdle closes a connection that has been idle for ipc.DefaultIdle: a client
// that asks more often is told by a response.
func (c *conn) closeIdle(now time.Time) {
	age := int64(now.Sub(c.accepted)) + 1
	since := c.idleSince.Load()
	switch {
	case c.load() == closing:
		c.expire(closing) // again: its server may have set a deadline since
	case !c.idle():
		c.idleSince.Store(0)
	case since == 0:
		c.idleSince.Store(age)
	case age-since >= int64(ipc.DefaultIdle):
		c.mark.Store(told)
		c.expire(closing)
	}
}

// isShed reports whether a response should be the last of its connection.
func isShed(nc net.Conn) bool {
	c := tracked(nc)
	if c == nil || !c.mark.CompareAndSwap(marked, told) && c.mark.Load() != told {
		return false
	}
	c.idleSince.Store(0)
	return true
}

// The accepted connections as a server sees them. Embedding the concrete types
// keeps ReadFrom (sendfile(2)), CloseWrite and SyscallConn.
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

func (c *tcpConn) Read(p []byte) (int, error)   { return c.conn.read(p) }
func (c *unixConn) Read(p []byte) (int, error)  { return c.conn.read(p) }
func (c *otherConn) Read(p []byte) (int, error) { return c.conn.read(p) }

func (c *tcpConn) Close() error   { return c.conn.close() }
func (c *unixConn) Close() error  { return c.conn.close() }
func (c *otherConn) Close() error { return c.conn.close() }

func wrap(nc net.Conn) (*conn, net.Conn) {
	switch raw := nc.(type) {
	case *net.TCPConn:
		t := &tcpConn{TCPConn: raw}
		return &t.conn, t
	case *net.UnixConn:
		u := &unixConn{UnixConn: raw}
		return &u.conn, u
	}
	o := &otherConn{Conn: nc}
	return &o.conn, o
}

// tracked returns the state of a connection, nil if it was not accepted here. It
// looks through wrappers: those with a NetConn method (crypto/tls) and structs that
// embed a net.Conn (fasthttp's MaxConnsPerIP, x/net/netutil).
func tracked(nc net.Conn) *conn {
	for nc != nil {
		switch c := nc.(type) {
		case *net.TCPConn, *net.UnixConn:
			return nil
		case *tcpConn:
			return &c.conn
		case *unixConn:
			return &c.conn
		case *otherConn:
			return &c.conn
		default:
			nc = unwrap(nc)
		}
	}
	return nil
}

// unwrap returns what a struct embeds or its NetConn method returns; nil: nothing.
func unwrap(nc net.Conn) net.Conn {
	if c, ok := nc.(interface{ NetConn() net.Conn }); ok {
		return c.NetConn()
	}
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
