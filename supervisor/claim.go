package supervisor

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/capture"
	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/sockets"
)

const (
	// holdBind is how long a bind(2) waits at most for a claim. An app that learns its
	// listeners only.
	holdBind = 5 * time.Second
	// claimInterval is how often a bind(2) that waits looks whether the claim stands.
	claimInterval = 20 * time.Millisecond
	// claimGrace is how long a claim stands whose socket is not bound, as its bind(2) may be
	// under way, or whose process has ended: its child may have the socket.
	claimGrace = time.Second
)

// claim is an address that a worker has bound in an app that learns its listeners, and
// on which it does not listen yet.
type claim struct {
	worker  pool.ID
	program sockets.Program
	at      time.Time
	pid, fd int      // its process and descriptor
	cookie  uint64   // of its socket
	waiting []called // of other workers, for the same address
}

// stands reports whether the claim's socket may yet listen. Any goroutine may call it.
func (cl *claim) stands(closer *closing.Closer) bool {
	fresh := time.Since(cl.at) < claimGrace
	pidfd, err := unix.PidfdOpen(cl.pid, 0)
	if err != nil {
		return fresh
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, cl.fd, 0)
	if err != nil {
		return false
	}
	defer closer.Run(func() { unix.Close(fd) })
	if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil || cookie != cl.cookie {
		return false
	}
	if _, err := unix.Getpeername(fd); !errors.Is(err, unix.ENOTCONN) {
		return false // it was bound to connect
	}
	at, err := unix.Getsockname(fd)
	return err == nil && isNamed(at) || fresh
}

// isNamed reports whether a socket with that name is bound to a port or path.
func isNamed(at unix.Sockaddr) bool {
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		return at.Port != 0
	case *unix.SockaddrInet6:
		return at.Port != 0
	case *unix.SockaddrUnix:
		return at.Name != ""
	}
	return false
}

func (e *executor) waitFor(cl *claim, c called) capture.Answer {
	look, late := time.Tick(claimInterval), time.After(holdBind)
	for {
		var r report
		select {
		case a := <-c.answer:
			return a
		case cl = <-c.held:
		case <-e.inbox.done:
			return capture.Answer{}
		case <-late:
			c.late = true
			r = c
		case <-look:
			if !cl.stands(&e.closer) {
				r = unclaimed{cl}
			}
		}
		if r != nil && !e.inbox.postReport(r) {
			return capture.Answer{}
		}
	}
}

// hold has a bind(2) wait while another worker has bound the same address: that one will
// listen, and the address be learned. Else the address is the worker's claim.
func (e *executor) hold(w *worker, c called, p sockets.Program) bool {
	at := slices.IndexFunc(e.claims, func(cl *claim) bool { return cl.program.Overlaps(p) })
	if at >= 0 && e.claims[at].worker != c.worker {
		if c.late {
			return false
		}
		cl := e.claims[at]
		cl.waiting = append(cl.waiting, c)
		c.heldBy(cl)
		w.claim.Store(cl)
		return true
	}
	mine := slices.DeleteFunc(slices.Clone(e.claims), func(cl *claim) bool { return cl.worker != c.worker })
	if at < 0 && len(mine) >= maxNamed { // the oldest gives way
		e.endClaims(func(cl *claim) bool { return cl == mine[0] })
	}
	cl := &claim{worker: c.worker, program: p, at: time.Now(), pid: c.call.PID, fd: c.call.FD, cookie: c.call.Cookie}
	if at < 0 {
		e.claims = append(e.claims, cl)
	} else { // it tries again, with another socket perhaps
		cl.waiting = e.claims[at].waiting
		e.claims[at] = cl
		for _, other := range cl.waiting {
			other.heldBy(cl)
		}
	}
	w.claim.Store(cl)
	return false
}

// heldBy tells a call that waits which claim it waits for now.
func (c called) heldBy(cl *claim) {
	select {
	case <-c.held:
	default:
	}
	c.held <- cl
}

// unhold takes a call out of the claim that it waits for. It reports whether it was there.
func (e *executor) unhold(c called) (found bool) {
	for _, cl := range e.claims {
		cl.waiting = slices.DeleteFunc(cl.waiting, func(w called) bool {
			same := w.answer == c.answer
			found = found || same
			return same
		})
	}
	return found
}

// letGo ends the waiting of a worker that is to drain: meanwhile it would handle no signal.
func (e *executor) letGo(id pool.ID) {
	for _, cl := range e.claims {
		cl.waiting = slices.DeleteFunc(cl.waiting, func(c called) bool {
			if c.worker == id {
				c.answer <- capture.Answer{}
			}
			return c.worker == id
		})
	}
}

// endClaims answers the calls that wait for the claims that have ended.
func (e *executor) endClaims(ended func(*claim) bool) {
	var waiting []called
	e.claims = slices.DeleteFunc(e.claims, func(c *claim) bool {
		if !ended(c) {
			return false
		}
		waiting = append(waiting, c.waiting...)
		return true
	})
	for _, c := range waiting {
		e.called(c) // a bind(2): no event follows
	}
}

// endOldClaims ends the claims of workers that have been ready for a while: on an address
// that they did not need for that, others no longer wait for them.
func (e *executor) endOldClaims(now time.Time) {
	e.endClaims(func(c *claim) bool {
		w := e.workers[c.worker]
		return w != nil && w.care.ready && now.Sub(w.care.readyAt) > claimGrace
	})
}
