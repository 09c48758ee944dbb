package worker

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

// maxMoving is how many idle connections are on their way at a time. More wait, so that
// requests in both workers are served meanwhile.
const maxMoving = 256

// handoff is what a worker knows of its neighbours.
type handoff struct {
	replyWithin time.Duration // replyTimeout, but in tests

	mu        sync.Mutex
	sender    *sender                // to the successor; nil: none
	successor chan struct{}          // see Successor
	take      func(net.Conn, []byte) // see OnHandoff
}

// Why Handoff has not handed a connection over, for errors.Is.
var (
	ErrNoSuccessor = errors.New("no worker takes connections of this one")
	ErrRefused     = errors.New("the successor does not take it")
	errLost        = errors.New("the successor has stopped and may have taken it")
)

// Movable says that the connections of ln carry requests of HTTP/1.1 and nothing around
// them, and that Body is called, so that idle ones may be handed to another worker. Serve
// packages call it before the first Accept. It has no effect unless the master passed
// the socket. A connection that another worker has handed over is closed if its next
// request does not begin within idle; 0 or less: it stays.
func Movable(ln net.Listener, idle time.Duration) {
	if l, ok := ln.(*listener); ok && l.name != "" && Plain(l) {
		l.movable, l.idle = true, idle
	}
}

// Handoff hands a connection of the program's own, accepted on a socket that the master
// passed, to the worker that follows, whose OnHandoff callback gets it with state: at most
// 64 KiB, in the program's own format, with its version. A program calls it when Draining
// and Successor are closed. Nothing may read or write conn meanwhile (a read deadline in
// the past ends a read); what has been read and not handled belongs into state, and so does what a write has left.
//
// nil: the successor has it, and conn is closed here, unseen by the client. Otherwise conn
// is as it was: ErrNoSuccessor (try again with the next one), ErrRefused, or why this
// connection can't be handed over (TLS ends in this process). But where the successor has
// died in between and may have served it, conn is cut: no error but these two is worth
// another try. It takes a second at most for a successor that does not answer.
func (w *Worker) Handoff(conn net.Conn, state []byte) error {
	err := w.handOff(conn, state)
	if err != nil {
		return fmt.Errorf("cannot hand over the connection: %w", err)
	}
	return nil
}

func (w *Worker) handOff(conn net.Conn, state []byte) error {
	c := tracked(conn)
	switch {
	case len(state) > ipc.MaxState:
		return fmt.Errorf("its state has %d bytes, %d are the most", len(state), ipc.MaxState)
	case encrypted(conn):
		return errors.New("its TLS ends in this process")
	case c == nil || c.listener.name == "":
		return errors.New("it was not accepted on a socket of the master's")
	}
	rc, err := c.socket()
	if err != nil {
		return err
	}
	result := make(chan outcome, 1)
	for {
		s := w.handoff.to()
		if s == nil {
			return ErrNoSuccessor
		}
		t := ipc.Transfer{Listener: c.listener.name, Own: true, State: state}
		if !s.send(&parcel{Transfer: t, socket: rc, done: func(o outcome) { result <- o }}) {
			continue
		}
		switch <-result {
		case outcomeTaken:
			c.closed.Store(true)
			c.handedOver()
			return nil
		case outcomeRefused:
			return ErrRefused
		case outcomeLost:
			c.cut()
			return errLost
		case outcomeReturned:
		}
	}
}

// OnHandoff sets a callback that gets connections which another worker has handed over
// by Handoff. It is called on a goroutine for each connection, which f owns; one whose
// state f does not understand it has to close in its protocol. Without a callback they
// are refused. A program calls it before Ready.
func (w *Worker) OnHandoff(f func(conn net.Conn, state []byte)) {
	w.handoff.mu.Lock()
	defer w.handoff.mu.Unlock()
	w.handoff.take = f
}

// Successor is closed while there is a worker that takes connections of this one. When
// that one has gone, or another one follows, Successor returns another channel: what could
// not be handed over can be tried once more.
func (w *Worker) Successor() <-chan struct{} {
	w.handoff.mu.Lock()
	defer w.handoff.mu.Unlock()
	return w.handoff.successor
}

// to is the sender to the successor; nil: there is none.
func (h *handoff) to() *sender {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sender
}

// onHandoff follows the master's message.
func (w *Worker) onHandoff(role string, fd int) {
	p, err := newSeqpacket(fd)
	if err != nil {
		return
	}
	if role == ipc.RoleTo {
		r := &receiver{pair: p, prepare: w.prepare, open: newSeqpacket}
		go r.run()
		return
	}
	w.setSuccessor(p, false)
}

// setSuccessor has connections handed to a new successor from now on, or to a late one
// if there is no other.
func (w *Worker) setSuccessor(p pair, late bool) {
	h := &w.handoff
	s := newSender(p, h.replyWithin, w.senderEnded, w.awaitLate)
	h.mu.Lock()
	before := h.sender
	if late && before != nil {
		h.mu.Unlock()
		p.close()
		return
	}
	h.sender = s
	if before != nil {
		h.successor = make(chan struct{})
	}
	close(h.successor)
	w.drain.flags.Or(flagHanding)
	h.mu.Unlock()
	if before != nil {
		before.withdraw()
	}
	go s.run()
}

// awaitLate makes another pair for a successor that did not answer in time, and returns its
// end, or -1. When it says something there, it follows again.
func (w *Worker) awaitLate() (theirs int) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	p, err := newSeqpacket(ends[0])
	if err != nil {
		unix.Close(ends[1])
		return -1
	}
	go func() {
		if _, err := receiveReply(p); err != nil {
			p.close()
			return
		}
		w.setSuccessor(p, true)
	}()
	return ends[1]
}

func (w *Worker) senderEnded(s *sender) {
	h := &w.handoff
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sender == s {
		h.sender, h.successor = nil, make(chan struct{})
		w.drain.flags.And(^flagHanding)
	}
}

// handing reports whether idle connections are handed over now.
func (w *Worker) handing() bool {
	const both = flagDraining | flagHanding
	return w.drain.flags.Load()&both == both
}

// handOver hands an idle connection over, which its server has closed. If that can't be,
// the server gets it again.
func (w *Worker) handOver(c *conn) {
	rc, err := c.socket()
	for {
		s := w.handoff.to()
		if s == nil || err != nil {
			w.handed(c, s, outcomeRefused)
			return
		}
		t := ipc.Transfer{Listener: c.listener.name}
		if s.send(&parcel{Transfer: t, socket: rc, done: func(o outcome) { w.handed(c, s, o) }}) {
			return
		}
	}
}

// handed follows the outcome of an attempt to hand an idle connection over by s.
func (w *Worker) handed(c *conn, s *sender, o outcome) {
	switch o {
	case outcomeTaken:
		c.handedOver()
	case outcomeReturned:
		w.handOver(c) // another successor may have come
		return
	case outcomeRefused:
		c.putBack(s)
	case outcomeLost:
		c.cut()
	}
}

// prepare makes a connection of this worker's of a passed descriptor. No functions: it is
// refused.
func (w *Worker) prepare(t ipc.Transfer, fd int) (serve, drop func()) {
	w.handoff.mu.Lock()
	take := w.handoff.take
	w.handoff.mu.Unlock()
	l := w.movedTo(t)
	if l == nil || !connected(fd) || t.Own && take == nil {
		closeDescriptor(fd)
		return nil, nil
	}
	raw, err := connOf(fd)
	if err != nil {
		return nil, nil
	}
	c, nc := wrap(raw)
	c.raw, c.accepted, c.moved = raw, time.Now(), true
	c.served.Store(true)
	serve = func() {
		c.phase.Store(int32(phaseNew))
		l.await(c, nc)
	}
	if t.Own {
		state := bytes.Clone(t.State)
		serve = func() {
			c.phase.Store(int32(Hijacked))
			go take(nc, state)
		}
	}
	if !l.addMoved(c) { // before the reply: the drain may be asked for in this moment
		raw.Close()
		return nil, nil
	}
	w.page.TookOver() // before the predecessor's HandedOver, which follows the reply
	return serve, func() {
		if !c.ended.Swap(true) {
			raw.Close()
			w.page.GaveBack()
			l.remove(c)
		}
	}
}

// movedTo is the listener whose connection this is; nil: no connection is taken.
func (w *Worker) movedTo(t ipc.Transfer) *listener {
	if w.drain.active() {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.listeners {
		if l.name != "" && l.name == t.Listener && (t.Own || l.served.Load() && l.movable) {
			return l
		}
	}
	return nil
}

// connected reports whether a descriptor is of a stream connection.
func connected(fd int) bool {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM {
		return false
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && listens == 0
}

// encrypted reports whether a connection is one of crypto/tls, whose type this package
// does not import, or a wrapper around one.
func encrypted(nc net.Conn) bool {
	for ; nc != nil; nc = unwrap(nc) {
		if _, ok := nc.(interface{ VerifyHostname(host string) error }); ok {
			return true
		}
	}
	return false
}

// socket is the connection's descriptor.
func (c *conn) socket() (syscall.RawConn, error) {
	sc, ok := c.raw.(syscall.Conn)
	if !ok {
		return nil, errors.New("it has no descriptor")
	}
	return sc.SyscallConn()
}

// handedOver ends a connection that another worker has: the client sees nothing.
func (c *conn) handedOver() {
	if c.ended.Swap(true) {
		return
	}
	_ = c.raw.Close()
	c.listener.worker.page.HandedOver() // before the drain can end
	c.listener.remove(c)
}

// putBack gives the server a connection again that it has closed; refuser can't hand it
// over, if it is not nil.
func (c *conn) putBack(refuser *sender) {
	if c.ended.Swap(true) {
		return
	}
	c.mu.Lock() // an expire that comes late finds that this is over: the socket is the next one's
	c.phase.Store(int32(lingering))
	_ = c.raw.SetReadDeadline(time.Time{})
	c.mu.Unlock()
	again, nc := wrap(c.raw)
	again.raw, again.accepted, again.refuser = c.raw, c.accepted, refuser
	again.served.Store(true)
	c.listener.add(again)
	c.listener.await(again, nc)
	c.listener.remove(c)
}

// leaves reports whether the connection is to be handed over now, as nothing of another
// request has been read. Its server is told that the client has closed it, and its Close
// hands it over.
func (c *conn) leaves() bool {
	if !c.mayMove() {
		return false
	}
	if p := c.load(); p != moving && !(p.idle() && c.move(p, moving)) {
		return false
	}
	c.going.Store(true)
	return true
}

// movable reports whether the connection can be handed over once it is idle and clean.
func (c *conn) movable() bool {
	w := c.listener.worker
	return w.handing() && c.listener.movable && !c.multiplexed.Load() && c.mark.Load() != told &&
		(c.refuser == nil || c.refuser != w.handoff.to())
}

// mayMove reports whether it can be handed over now if it is idle.
func (c *conn) mayMove() bool { return c.movable() && !c.unclean.Load() }

// maxKept is how many responses of a drain leave a connection open that may move: it moves
// when it is idle, which one with pipelined requests never is. Of a client that is quick
// net/http may have read a byte of the next request before it is done with one, several times
// in a row where the machine is busy.
const maxKept = 10

// keeps reports whether a connection can stay open after a response in a drain, as it
// will be handed over.
func keeps(nc net.Conn) bool {
	c := tracked(nc)
	if c == nil || !c.movable() || c.kept == maxKept {
		return false
	}
	c.kept++
	return true
}
