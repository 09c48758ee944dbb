package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
)

// listener is what the server accepts from. It bounds the open connections, outlives
// errors of accept(2), and never blocks in close(2).
type listener struct {
	net.Listener

	done    <-chan struct{} // closed when the server is to end
	limits  limits
	slots   chan struct{} // one for each open connection
	pending []*conn       // those without a whole request, by since
	spare   *os.File      // a descriptor for when there are none; nil: not available now
	closer  closing.Closer
}

func newListener(ctx context.Context, ln net.Listener, l limits) *listener {
	spare, _ := os.Open(os.DevNull)
	return &listener{Listener: ln, done: ctx.Done(), limits: l, slots: make(chan struct{}, l.clients), spare: spare}
}

// Accept fails when the listener is closed.
func (l *listener) Accept() (net.Conn, error) {
	accepted, err := l.next()
	if err != nil {
		return nil, err
	}
	return l.open(accepted)
}

// next accepts a connection. What accept(2) reports, a shortage or trouble of the network,
// does not last.
func (l *listener) next() (net.Conn, error) {
	for {
		accepted, err := l.accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return accepted, err
		}
		select { // the client waits in the socket's queue
		case <-time.After(l.limits.finish / 10):
		case <-l.done:
		}
	}
}

// accept uses the spare descriptor if there is no other, so that a master which has
// run out of them can be asked why, and stopped.
func (l *listener) accept() (net.Conn, error) {
	if l.spare == nil {
		l.spare, _ = os.Open(os.DevNull)
	}
	accepted, err := l.Listener.Accept()
	if l.spare != nil && (errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)) {
		l.spare.Close()
		l.spare = nil
		accepted, err = l.Listener.Accept()
	}
	return accepted, err
}

// open waits for a slot. When all are taken, the connection that has been silent for
// longest, without a whole request, is closed after limits.busyRead.
func (l *listener) open(accepted net.Conn) (net.Conn, error) {
	c := &conn{Conn: accepted, since: time.Now()}
	if raw, ok := accepted.(syscall.Conn); ok {
		c.raw, _ = raw.SyscallConn() // fails only for nil
	}
	c.release = sync.OnceFunc(func() { <-l.slots })
	if local, ok := accepted.(*net.UnixConn); ok {
		if p, err := peerOf(local); err == nil {
			c.peer = p
		}
		c.Conn = closing.NewConn(local, &l.closer)
	}
	for {
		l.pending = slices.DeleteFunc(l.pending, func(c *conn) bool { return c.decided.Load() })
		var late <-chan time.Time
		if len(l.pending) > 0 && len(l.slots) == cap(l.slots) {
			l.closeLeft()
			late = time.After(time.Until(l.pending[0].since.Add(l.limits.busyRead)))
		}
		select {
		case l.slots <- struct{}{}:
			l.pending = append(l.pending, c)
			return c, nil
		case <-late:
			oldest := l.pending[0]
			if unread, _ := oldest.poll(); unread { // it is the server that is slow
				oldest.since = time.Now()
				l.pending = append(l.pending[1:], oldest)
			} else if oldest.decide() {
				oldest.Close()
			}
		case <-l.done:
			c.Conn.Close()
			return nil, net.ErrClosed
		}
	}
}

// closeLeft closes the connections whose clients have left without a word: each
// command connects twice, at first only to see who answers.
func (l *listener) closeLeft() {
	for _, c := range l.pending {
		if unread, left := c.poll(); left && !unread && c.decide() {
			c.Close()
		}
	}
}

type conn struct {
	net.Conn

	peer    *peer           // nil: not known
	raw     syscall.RawConn // nil: no socket
	since   time.Time       // accepted, or found with bytes to read
	release func()          // of the slot
	handled atomic.Bool     // a request has been read, up to its body
	decided atomic.Bool     // all of the request is here, or the connection was closed for lack of it
}

// decide reports whether the caller is the first to decide if a connection is served
// or closed.
func (c *conn) decide() bool { return !c.decided.Swap(true) }

// poll reports whether bytes of the client wait to be read, and whether it sends no
// more.
func (c *conn) poll() (unread, left bool) {
	if c.raw == nil {
		return false, false
	}
	_ = c.raw.Control(func(fd uintptr) { // fails when it is closed: then it is neither
		waiting, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		unread = err == nil && waiting > 0
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, 0)
		left = n > 0
	})
	return unread, left
}

func (c *conn) Close() error {
	c.decided.Store(true)
	err := c.Conn.Close()
	c.release()
	return err
}

// Write makes JSON of what net/http itself answers, in plain text, to bytes that are
// no request.
func (c *conn) Write(p []byte) (int, error) {
	const version = "HTTP/1.1 "
	line, _, _ := bytes.Cut(p, []byte("\r\n"))
	if c.handled.Load() || !bytes.HasPrefix(line, []byte(version)) {
		return c.Conn.Write(p)
	}
	status := string(line[len(version):]) // "400 Bad Request: why"
	text, err := json.Marshal(map[string]string{"error": status})
	if err == nil {
		_, err = fmt.Fprintf(c.Conn, "%s%s\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s\n", version, status, len(text)+1, text)
	}
	return len(p), err
}

// controlListener is the control socket: another one when the file of the first has
// been removed.
type controlListener struct {
	current atomic.Pointer[net.UnixListener]
	closed  atomic.Bool
}

func (l *controlListener) Accept() (net.Conn, error) {
	for {
		ln := l.current.Load()
		accepted, err := ln.Accept()
		if err == nil || ln == l.current.Load() {
			return accepted, err
		}
	}
}

func (l *controlListener) Close() error {
	l.closed.Store(true)
	if ln := l.current.Load(); ln != nil {
		return ln.Close()
	}
	return nil
}

func (l *controlListener) Addr() net.Addr { return l.current.Load().Addr() }

// replace changes the socket. Clients of the old one are served on.
func (l *controlListener) replace(ln *net.UnixListener) {
	old := l.current.Swap(ln)
	if l.closed.Load() {
		ln.Close()
	}
	if old != nil {
		old.Close()
	}
}
