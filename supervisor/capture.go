package supervisor

import (
	"cmp"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/capture"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/sockets"
)

const (
	// holdBind is how long a bind(2) waits at most for another worker, which has bound
	// the same address and has not called listen(2) yet. An app that learns its listeners
	// only.
	holdBind = 5 * time.Second
	// maxNamed bounds how many sockets that are bound, and do not listen, are remembered of
	// a worker.
	maxNamed = 64
)

// claim is an address that a worker has bound in an app that learns its listeners, and
// on which it does not listen yet.
type claim struct {
	worker  pool.ID
	program sockets.Program
	waiting []called // of other workers, for the same address
}

// answerCalls answers the worker's bind(2) and listen(2) until none of its processes
// lives.
func (w *worker) answerCalls(e *executor) {
	fd, why := w.process.Capture()
	if fd < 0 {
		if w.release.pass == "" {
			e.log.Warn("the worker's own sockets can't be answered with the slot's", "slot", w.id.Slot, "pid", w.process.PID(), "why", why)
		}
		return
	}
	go capture.New(fd).Serve(func(c capture.Call) capture.Answer {
		answer := make(chan capture.Answer, 2) // the loop never waits
		for _, late := range []bool{false, true} {
			if !e.inbox.postReport(called{w.id, c, answer, late}) {
				return capture.Answer{}
			}
			select {
			case a := <-answer:
				return a
			case <-e.inbox.done:
				return capture.Answer{}
			case <-time.After(holdBind):
			}
		}
		return <-answer // a late one is answered at once
	})
}

// called decides what a bind(2) or listen(2) of a worker gets.
func (e *executor) called(c called) []pool.Event {
	if c.late && !e.unhold(c) {
		return nil // it has been answered meanwhile
	}
	w, r := e.workers[c.worker], e.releases[c.worker.Generation]
	if w == nil || r == nil || r.listeners == nil || e.listenersClosed {
		c.answer <- capture.Answer{}
		return nil
	}
	p := sockets.Program{
		Network: c.call.Network, Address: c.call.Address, Path: c.call.Path,
		V6: c.call.V6, V6Only: c.call.V6Only, Nonblocking: c.call.Nonblocking, Socket: c.call.Socket,
	}
	slot := c.worker.Slot
	if _, own := r.listeners.Find(slot, c.call.Cookie); own {
		// Its bind(2) was answered with this socket, or it inherited it: it listens already.
		c.answer <- capture.Answer{Handled: true, Socket: -1}
		return w.calledListen(c.call.Listen)
	}
	i, ok := r.listeners.Match(slot, p)
	if !ok && r.learns {
		w.bound.Store(true)
		switch {
		case !c.call.Listen && e.hold(c, p):
			return nil
		case !c.call.Listen:
			w.named = append(w.named, c.call.Cookie)
			w.named = w.named[max(0, len(w.named)-maxNamed):]
		case slices.Contains(w.named, c.call.Cookie):
			if i, ok = e.learn(w, r, p); ok {
				defer e.endClaims(func(c *claim) bool { return c.program.Overlaps(p) })
			}
		}
	}
	if !ok {
		c.answer <- capture.Answer{}
		if c.call.Listen {
			return []pool.Event{pool.Listened{ID: w.id, Elsewhere: cmp.Or(p.Path, p.Address.String())}}
		}
		return nil
	}
	fd, err := r.listeners.Take(slot, i, p)
	if err == nil {
		fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) // the slot may be closed before the answer
	}
	if err != nil {
		e.log.Error("cannot give the worker its slot's socket", "slot", slot, "pid", w.process.PID(), "why", err)
		c.answer <- capture.Answer{}
		return nil
	}
	w.captured = true
	w.watches(r.listeners)
	c.answer <- capture.Answer{Handled: true, Socket: fd}
	return w.calledListen(c.call.Listen)
}

// calledListen is what the pool is to know of a call that was answered.
func (w *worker) calledListen(listen bool) []pool.Event {
	if !listen {
		return nil
	}
	w.lookNow()
	return []pool.Event{pool.Listened{ID: w.id}}
}

// learn makes a listener of the address that a worker is about to listen on.
func (e *executor) learn(w *worker, r *release, p sockets.Program) (listener int, ok bool) {
	l, err := r.listeners.Learn(e.slots, p)
	if err != nil {
		e.log.Error("cannot make a listener of what the worker listens on: it is the only one that serves there", "slot", w.id.Slot, "pid", w.process.PID(), "why", err)
		return 0, false
	}
	e.learned = append(e.learned, l)
	e.log.Info("learned", "listener", l.Name, "address", l.Address(), "slot", w.id.Slot)
	e.events.Add(control.Event{Type: control.EventLearned, Slot: &w.id.Slot, Reason: l.Address() + ", from the worker's listen(2)"})
	return r.listeners.Match(w.id.Slot, p)
}

// unlearn gives up the learned listeners that a new release's workers no longer bind.
func (e *executor) unlearn(r *release) {
	if r == nil || r.listeners == nil || !r.learns {
		return
	}
	for _, unused := range r.listeners.Unlearn() {
		e.learned = slices.DeleteFunc(e.learned, func(l sockets.Listener) bool { return l.Name == unused.Name })
		e.log.Info("no worker listens there any more", "listener", unused.Name, "address", unused.Address())
		e.events.Add(control.Event{Type: control.EventUnlearned, Reason: unused.Address() + ": no worker of the new generation listens there"})
	}
}

// hold has a bind(2) wait while another worker has bound the same address: that one will
// listen, and the address be learned. Else the address is the worker's claim.
func (e *executor) hold(c called, p sockets.Program) bool {
	at := slices.IndexFunc(e.claims, func(cl *claim) bool { return cl.program.Overlaps(p) })
	switch {
	case at < 0:
		e.claims = append(e.claims, &claim{worker: c.worker, program: p})
	case e.claims[at].worker != c.worker && !c.late:
		e.claims[at].waiting = append(e.claims[at].waiting, c)
		return true
	}
	return false
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
