package worker

import "net"

// maxRefusals bounds how many connections a worker turns away at a time with an
// answer. Further ones are closed without.
const maxRefusals = 256

// Refuse sets what answers the connections of ln that come while this worker has
// as many open as the master lets it have (FORKD_MAX_CONNECTIONS: its share of
// redis.max_connections_per_host). Those of all its listeners count, hijacked
// ones too. Serve packages call it with the listener that they are to serve,
// before its first Accept. A worker without such a limit stays as it is; so do
// listeners for which nobody calls it: their connections count, and are served.
//
// answer runs on a goroutine of its own, on at most 256 connections at a time: more
// are closed unanswered. It must end by itself, soon, whatever the client does;
// then the connection is closed. A drain waits for it.
func Refuse(ln net.Listener, answer func(net.Conn)) {
	if l, ok := ln.(*listener); ok && l.worker.limit > 0 {
		l.refuse = answer
	}
}

// most is how many connections this worker may have now: the master writes it to
// the page when the number of slots changes.
func (w *Worker) most() int64 {
	if n := w.page.Limit(); n > 0 {
		return n
	}
	return w.limit
}

// admit counts a new connection, and reports whether it may stay.
func (l *listener) admit() bool {
	if l.refuse == nil {
		l.worker.page.Opened()
		return true
	}
	return l.worker.page.Admit(l.worker.most())
}

// expel reports whether a connection that a listener further in has counted must
// go all the same: there was nobody who could answer it.
func (l *listener) expel() bool {
	return l.refuse != nil && l.worker.page.Expel(l.worker.most())
}

// turnAway has a connection answered that does not count as open, and closed. It
// does not block. In the set it is one that its server has closed: no drain takes
// it for idle or in use.
func (l *listener) turnAway(c *conn, nc net.Conn) {
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
			_ = recover() // of the program's own TLS hooks: net/http ends no more than the connection either
			nc.Close()
			<-l.worker.refusals
		}()
		l.refuse(nc)
	}()
}
