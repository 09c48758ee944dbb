package worker

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// arrivals are connections that wait for Accept without having come from the socket:
// another worker has handed them over, or has not taken them.
type arrivals struct {
	some atomic.Bool // conns is not empty

	mu    sync.Mutex
	more  sync.Cond // there are some, or ended
	conns []net.Conn
	ended bool
}

// await has Accept return a connection that is listed and idle when its next request
// begins: until then the server's timeouts of a first request do not hold, but l.idle does.
func (l *listener) await(c *conn, nc net.Conn) {
	if l.idle > 0 {
		_ = c.raw.SetReadDeadline(time.Now().Add(l.idle))
	}
	go func() {
		err := c.awaitData()
		for errors.Is(err, os.ErrDeadlineExceeded) && c.load() == moving {
			if c.leaves() {
				nc.Close() // hands it over
				return
			}
			c.resume(phaseNew)
			err = c.awaitData()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && !c.hasData() {
			nc.Close()
			return
		}
		_ = c.raw.SetReadDeadline(time.Time{})
		l.arrive(nc)
	}()
}

// awaitData waits until a read would not block. The error may be os.ErrDeadlineExceeded.
func (c *conn) awaitData() error {
	rc, err := c.socket()
	if err != nil {
		return err
	}
	return rc.Read(readable)
}

// hasData reports whether a read would not block, after the read deadline too.
func (c *conn) hasData() (has bool) {
	if rc, err := c.socket(); err == nil {
		_ = rc.Control(func(fd uintptr) { has = readable(fd) })
	}
	return has
}

func readable(fd uintptr) bool {
	var first [1]byte
	_, _, err := unix.Recvfrom(int(fd), first[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err != unix.EAGAIN
}

// arrive has Accept return a connection, which is in the list.
func (l *listener) arrive(nc net.Conn) {
	a := &l.arrivals
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		go nc.Close() // it takes locks
		return
	}
	a.conns = append(a.conns, nc)
	a.some.Store(true)
	a.more.Signal()
	l.interrupt(time.Unix(1, 0))
}

// interrupt sets until when Accept waits for the socket. A listener that stops has
// deadlines of its own, all near.
func (l *listener) interrupt(at time.Time) {
	if s, ok := l.Listener.(interface{ SetDeadline(t time.Time) error }); ok && !l.stopping.Load() {
		_ = s.SetDeadline(at)
	}
}

// arrived returns a connection that waits for Accept, nil if there is none.
func (l *listener) arrived() net.Conn {
	l.arrivals.mu.Lock()
	defer l.arrivals.mu.Unlock()
	return l.takeArrival()
}

func (l *listener) takeArrival() net.Conn {
	a := &l.arrivals
	if len(a.conns) == 0 {
		return nil
	}
	nc := a.conns[0]
	a.conns[0] = nil
	a.conns = a.conns[1:]
	if len(a.conns) == 0 {
		a.some.Store(false)
		l.interrupt(time.Time{})
	}
	return nc
}

// awaitArrival is Accept when the socket is closed: a connection may come back until the
// drain ends.
func (l *listener) awaitArrival() (net.Conn, error) {
	a := &l.arrivals
	a.mu.Lock()
	defer a.mu.Unlock()
	for l.movable && !a.ended {
		l.endAccepts()
		if nc := l.takeArrival(); nc != nil {
			return nc, nil
		}
		a.more.Wait()
	}
	return nil, net.ErrClosed
}

// endArrivals ends Accept for good.
func (l *listener) endArrivals() {
	a := &l.arrivals
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	a.more.Broadcast()
	for _, nc := range a.conns {
		go nc.Close() // it takes locks
	}
	a.conns = nil
}
