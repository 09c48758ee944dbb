// Package closing reads and closes unix sockets into which somebody else can send
// descriptors (SCM_RIGHTS, unix(7)).
//
// The kernel closes what nobody takes out of such a queue inside the recvmsg(2) or
// close(2) that drops it. A TCP socket among it, with SO_LINGER and unsent data,
// holds that call for as long as its sender has chosen (socket(7)). The invariant:
// no call in here is held for longer than it takes to interrupt it, and no more
// than one of a Closer's is held at a time, which bounds the threads that it costs.
//
// A file whose close(2) cannot be interrupted, as on a network file system, still
// holds a Closer up; nobody who calls Conn.Close waits for that.
package closing

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Closer runs calls that may be held, one at a time. Its zero value is ready. It
// must not be copied.
type Closer struct{ turn sync.Mutex }

// How long a call may be held before it is interrupted, and how often after that:
// once for each socket that lingers.
const (
	patience = 10 * time.Millisecond
	again    = time.Millisecond
)

// Run waits for its turn, then runs f, which makes the call. Whoever must not wait
// runs it on a goroutine.
func (c *Closer) Run(f func()) {
	c.turn.Lock()
	defer c.turn.Unlock()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, done := unix.Gettid(), make(chan struct{})
	defer close(done)
	held := time.AfterFunc(patience, func() { interrupt(thread, done) })
	defer held.Stop()
	f()
}

// interrupt ends the waits of a thread until done is closed: sk_stream_wait_close
// in net/core/stream.c waits no longer than until a signal comes. SIGURG means
// nothing to a Go program: its runtime preempts goroutines by it.
func interrupt(thread int, done <-chan struct{}) {
	ticker := time.NewTicker(again)
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

// RefuseRights has the kernel refuse descriptors that are sent to a socket, with
// EPERM for the sender. Connections have it from the socket that they were
// accepted from. Where the kernel cannot do it (SO_PASSRIGHTS, since Linux 6.16)
// nothing changes.
func RefuseRights(fd int) { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) }

// Refuse is RefuseRights for net.Dialer and net.ListenConfig.
func Refuse(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { RefuseRights(int(fd)) })
}

// Conn is a connected or receiving unix socket. Neither Read nor Receive nor Close
// is held by what the other side has sent along, and none of it stays open here.
type Conn struct {
	*net.UnixConn

	raw    syscall.RawConn
	closer *Closer
	ending sync.Once
	closed chan struct{}
	limit  sync.Mutex   // on deadlines: the last one is that of Close
	parked sync.RWMutex // held for reading by who waits in the poller
}

// NewConn takes a connection over.
func NewConn(conn *net.UnixConn, closer *Closer) *Conn {
	raw, _ := conn.SyscallConn() // fails for nil alone
	return &Conn{UnixConn: conn, raw: raw, closer: closer, closed: make(chan struct{})}
}

// Closed is closed by Close.
func (c *Conn) Closed() <-chan struct{} { return c.closed }

// Close ends the connection, and what waits in it to read or to write. It waits
// for neither, nor for the close(2). The error is net.ErrClosed for all calls but
// the first.
func (c *Conn) Close() (err error) {
	err = net.ErrClosed
	c.ending.Do(func() {
		c.limit.Lock()
		defer c.limit.Unlock()
		close(c.closed)
		// Whoever is parked goes first: the last to let go of a net.UnixConn is the
		// one that closes it, and that must be the goroutine in Run.
		err = c.UnixConn.SetDeadline(time.Unix(1, 0))
		go func() {
			c.parked.Lock()
			defer c.parked.Unlock()
			c.closer.Run(func() { _ = c.UnixConn.Close() }) // nobody is there to be told
		}()
	})
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
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
		return deadline(t)
	}
}

// Receive is recvmsg(2). sender is nil where the kernel does not say (SO_PASSCRED).
// The error is net.ErrClosed after Close.
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

// take calls f in its turn once there is something to receive.
func (c *Conn) take(f func(fd int) error) (err error) {
	for {
		c.parked.RLock()
		err = c.raw.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 || err != nil
		})
		c.parked.RUnlock()
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

// credentials returns whose message it was, nil where it does not say, and closes
// the descriptors that there was room for without them.
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
	c.parked.RLock()
	defer c.parked.RUnlock()
	n, err := c.UnixConn.Write(p)
	return n, c.explain(err)
}

// explain tells the deadline that Close has set from others.
func (c *Conn) explain(err error) error {
	select {
	case <-c.closed:
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return net.ErrClosed
		}
	default:
	}
	return err
}
