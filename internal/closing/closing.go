// Package closing reads and closes unix sockets into which another process can send
// descriptors (SCM_RIGHTS, unix(7)).
//
// Descriptors that are not received are closed inside the recvmsg(2) or close(2) that
// drops them. If one is a TCP socket with SO_LINGER and unsent data, that call blocks for
// a time of the sender's choice (socket(7)). The invariant: a call in here is interrupted
// when it blocks, and only one call of a Closer blocks at a time, which bounds the
// threads.
//
// A close(2) that can't be interrupted, as on a network file system, blocks a Closer, but
// not the callers of Conn.Close.
package closing

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Closer runs calls that may block, one at a time. Its zero value is ready. It must not
// be copied.
type Closer struct{ turn sync.Mutex }

// When a blocked call is interrupted, and how often after that: once for each socket that
// lingers.
const (
	interruptAfter    = 10 * time.Millisecond
	interruptInterval = time.Millisecond
)

// Run waits for its turn, then runs f, which makes the call.
func (c *Closer) Run(f func()) {
	c.turn.Lock()
	defer c.turn.Unlock()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, done := unix.Gettid(), make(chan struct{})
	defer close(done)
	held := time.AfterFunc(interruptAfter, func() { interrupt(thread, done) })
	defer held.Stop()
	f()
}

// interrupt sends a thread SIGURG until done is closed: a signal ends the wait in
// sk_stream_wait_close (net/core/stream.c). SIGURG is harmless: Go's runtime uses it to
// preempt goroutines.
func interrupt(thread int, done <-chan struct{}) {
	ticker := time.NewTicker(interruptInterval)
	defer ticker.Stop()
	for {
		_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG) // it may have ended
		select {
		case <-done:
			return
		case <-ticker.C:
		}
	}
}

// RefuseRights makes the kernel refuse descriptors that are sent to a socket, with EPERM
// for the sender. Accepted connections inherit this. It does nothing before Linux 6.16
// (SO_PASSRIGHTS).
func RefuseRights(fd int) { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) }

// Refuse is RefuseRights for net.Dialer and net.ListenConfig.
func Refuse(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { RefuseRights(int(fd)) })
}

// Conn is a connected or receiving unix socket. Read, Receive and Close are not blocked by
// descriptors that were sent along, and none of these stays open.
type Conn struct {
	*net.UnixConn

	raw     syscall.RawConn
	closer  *Closer
	ended   atomic.Bool   // set with closed
	closed  chan struct{} // by Close
	limit   sync.Mutex    // on deadlines: the last one is that of Close
	polling sync.RWMutex  // read-locked while waiting in the poller
}

// NewConn takes over a connection.
func NewConn(conn *net.UnixConn, closer *Closer) *Conn {
	raw, _ := conn.SyscallConn() // fails only for nil
	return &Conn{UnixConn: conn, raw: raw, closer: closer, closed: make(chan struct{})}
}

// Closed is closed by Close.
func (c *Conn) Closed() <-chan struct{} { return c.closed }

// Close ends the connection and pending reads and writes. It waits neither for them nor
// for the close(2). All calls but the first return net.ErrClosed.
func (c *Conn) Close() error {
	c.limit.Lock()
	defer c.limit.Unlock()
	if c.ended.Swap(true) {
		return net.ErrClosed
	}
	close(c.closed)
	// Pending calls must return first: the last user of a net.UnixConn closes it,
	// and that must be the goroutine in Run.
	err := c.UnixConn.SetDeadline(time.Unix(1, 0))
	go func() {
		c.polling.Lock()
		defer c.polling.Unlock()
		c.closer.Run(func() { _ = c.UnixConn.Close() })
	}()
	return err
}

// SetDeadline implements net.Conn. After Close it changes nothing.
func (c *Conn) SetDeadline(t time.Time) error { return c.set(c.UnixConn.SetDeadline, t) }

// SetReadDeadline is SetDeadline for Read and Receive.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.set(c.UnixConn.SetReadDeadline, t) }

// SetWriteDeadline is SetDeadline for Write.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.set(c.UnixConn.SetWriteDeadline, t) }

func (c *Conn) set(deadline func(time.Time) error, t time.Time) error {
	c.limit.Lock()
	defer c.limit.Unlock()
	if c.ended.Load() {
		return net.ErrClosed
	}
	return deadline(t)
}

// Receive is recvmsg(2). sender is nil without SO_PASSCRED. After Close the error is
// net.ErrClosed.
func (c *Conn) Receive(p []byte) (n int, sender *unix.Ucred, flags int, err error) {
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	err = c.take(func(fd int) error {
		var oobn int
		var err error
		n, oobn, flags, _, err = unix.Recvmsg(fd, p, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		sender = credentials(oob[:oobn])
		return os.NewSyscallError("recvmsg", err)
	})
	return max(n, 0), sender, flags, err
}

// Read implements io.Reader, for a stream.
func (c *Conn) Read(p []byte) (n int, err error) {
	err = c.take(func(fd int) (err error) {
		n, err = syscall.Read(fd, p) // the race detector knows this one
		return os.NewSyscallError("read", err)
	})
	if n == 0 && err == nil && len(p) > 0 {
		err = io.EOF
	}
	return max(n, 0), err
}

// take waits until there is something to receive, then runs f on the Closer.
func (c *Conn) take(f func(fd int) error) (err error) {
	for {
		c.polling.RLock()
		err = c.raw.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 || err != nil
		})
		c.polling.RUnlock()
		if err == nil {
			c.closer.Run(func() {
				if failed := c.raw.Control(func(fd uintptr) { err = f(int(fd)) }); failed != nil {
					err = failed
				}
			})
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return c.explain(err)
		}
	}
}

// credentials returns the sender of a message, nil if there is none, and closes received
// descriptors.
func credentials(oob []byte) (sender *unix.Ucred) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			sender = cred
		}
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}
	return sender
}

// Write implements io.Writer.
func (c *Conn) Write(p []byte) (int, error) {
	c.polling.RLock()
	defer c.polling.RUnlock()
	n, err := c.UnixConn.Write(p)
	return n, c.explain(err)
}

// explain returns net.ErrClosed for the deadline that Close has set.
func (c *Conn) explain(err error) error {
	if c.ended.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		return net.ErrClosed
	}
	return err
}
