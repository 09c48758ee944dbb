package worker

import "net"

// maxRefusals is how many refused connections are answered at a time. More are
// closed unanswered.
const maxRefusals = 256

// Refuse sets the function that answers new connections of ln while this worker is
// at its limit (FORKD_MAX_CONNECTIONS: its part of redis.max_connections_per_host).
// Open connections of all its listeners count, hijacked ones too. Serve packages call
// it with the listener that they serve, before its first Accept. Other listeners
// refuse nothing, and neither does a worker without a limit.
//
// answer runs on a goroutine of its own, for at most 256 connections at a time: more
// are closed unanswered. It must end soon, whatever the client does; then the
// connection is closed. A drain waits for it.
func Refuse(ln net.Listener, answer func(net.Conn)) {
	if l, ok := ln.(*listener); ok && l.worker.limit > 0 {
		l.answer = answer
	}
}

// connLimit is the limit now: the master writes a new one to the page when the
// number of slots changes.
func (w *Worker) connLimit() int64 {
	if n := w.page.Limit(); n > 0 {
		return n
	}
	return w.limit
}

// admit counts a new connection, or one that an inner listener has counted and could
// not answer, and reports whether it may stay.
func (l *listener) admit(counted bool) bool {
	page := l.worker.page
	switch {
	case l.answer == nil && !counted:
		page.Opened()
	case l.answer != nil && counted:
		return !page.Expel(l.worker.connLimit())
	case l.answer != nil:
		return page.Admit(l.worker.connLimit())
	}
	return true
}

// refuse has a connection over the limit answered and closed. It does not block. A
// drain takes the connection for neither idle nor in use.
func (l *listener) refuse(c *conn, nc net.Conn) {
	c.refused = true
	c.phase.Store(int32(lingering))
	l.set.add(c)
	select {
	case l.worker.refusals <- struct{}{}:
	default:
		nc.Close()
		return
	}
	go func() {
		defer func() {
			_ = recover() // from the program's TLS callbacks: net/http too closes the connection only
			nc.Close()
			<-l.worker.refusals
		}()
		l.answer(nc)
	}()
}
