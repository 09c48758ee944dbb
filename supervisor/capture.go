package supervisor

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/capture"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/sockets"
)

// maxNamed bounds how many sockets that are bound, and do not listen, are remembered of a
// worker, maxLearned the listeners that an app learns.
const (
	maxNamed   = 64
	maxLearned = 64
)

// answerCalls answers the worker's bind(2) and listen(2) until none of its processes
// lives. fd is its seccomp listener; -1: there is none.
func (w *worker) answerCalls(e *executor, fd int) {
	if fd < 0 {
		return
	}
	go capture.New(fd).Serve(func(c capture.Call) capture.Answer {
		call := called{worker: w.id, call: c, answer: make(chan capture.Answer, 2), held: make(chan *claim, 1)} // the loop never waits
		if !e.inbox.postReport(call) {
			return capture.Answer{}
		}
		select {
		case a := <-call.answer:
			return a
		case cl := <-call.held:
			return e.waitFor(cl, call)
		case <-e.inbox.done:
			return capture.Answer{}
		}
	})
}

// notAnswered says, once, why bind(2) and listen(2) of workers are not answered, where they
// were to be.
func (e *executor) notAnswered(r *release, why string) {
	if why == "" || why == e.passes || r.cfg.Sockets == SocketsPass {
		return
	}
	e.passes = why
	if len(e.listenersOf(r.cfg)) > 0 {
		e.log.Info("the sockets are only passed: the program has to take them ({fd} in the command, or LISTEN_FDS)", "why", why)
	} else {
		e.log.Warn("what the program listens on can't be shared among the workers: if it listens, give --listen, and it the socket ({fd} in the command, or LISTEN_FDS)", "why", why)
	}
}

// called decides what a bind(2) or listen(2) of a worker gets.
func (e *executor) called(c called) []pool.Event {
	if c.late && !e.unhold(c) {
		return nil // it has been answered meanwhile
	}
	if c.joined != nil {
		e.sockets.Disown(c.joined...)
		c.answer <- capture.Answer{}
		return nil
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
		return w.calledListen(c.call.Listen, c.call.Cookie)
	}
	i, ok := r.listeners.Match(slot, p)
	if !ok && r.learns {
		switch {
		case !c.call.Listen && e.hold(w, c, p):
			return nil
		case !c.call.Listen:
			w.named = append(w.named, c.call.Cookie)
			w.named = w.named[max(0, len(w.named)-maxNamed):]
		case slices.Contains(w.named, c.call.Cookie):
			if i, ok = e.learn(w, r, p); ok {
				defer e.endClaims(func(c *claim) bool { return c.program.Overlaps(p) })
				w.asked.Store(nil) // nobody else had it
			}
		}
	}
	if ok && !c.call.Listen && r.listeners.Beside(slot, i, p, w.listened) {
		c.answer <- capture.Answer{} // it may be to connect (libp2p's way); listen(2) can put the slot's in its place yet
		return nil
	}
	if !ok {
		if !c.call.Listen {
			w.asked.Store(&p)
		}
		if !c.call.Listen && r.learns && len(e.leftovers) > 0 {
			e.besideLeftovers(c, p)
			return nil
		}
		c.answer <- capture.Answer{}
		if c.call.Listen {
			return []pool.Event{pool.Listened{ID: w.id, Elsewhere: cmp.Or(p.Path, p.Address.String())}}
		}
		return nil
	}
	if p.Path != "" { // many programs unlink it first
		e.linkAgain(slot)
	}
	fd, err := r.listeners.Take(slot, i, p, w.id)
	if err == nil {
		fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) // the slot may be closed before the answer
	}
	if err != nil {
		e.log.Error("cannot give the worker its slot's socket", "slot", slot, "pid", w.process.PID(), "why", err)
		c.answer <- capture.Answer{}
		return nil
	}
	w.takes(fd, c.call)
	w.watches(r.listeners, e.sockets.Counting())
	own, _ := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	c.answer <- capture.Answer{Handled: true, Socket: fd}
	return w.calledListen(c.call.Listen, own)
}

// takes notes which process has got a socket of the slot's.
func (w *worker) takes(fd int, c capture.Call) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err == nil {
		w.taken[uint32(stat.Ino)] = &takenAt{c.PID, c.FD, time.Now()}
	}
}

// calledListen is what the pool is to know of a call that was answered with the slot's
// socket of that cookie.
func (w *worker) calledListen(listen bool, cookie uint64) []pool.Event {
	if !listen {
		return nil
	}
	if !slices.Contains(w.listened, cookie) {
		w.listened = append(w.listened, cookie)
	}
	w.lookNow()
	return []pool.Event{pool.Listened{ID: w.id}}
}

// learn makes a listener of the address that a worker is about to listen on.
func (e *executor) learn(w *worker, r *release, p sockets.Program) (listener int, ok bool) {
	var l sockets.Listener
	err := e.mayLearn(r, p.Network, p.Path)
	for generation, next := range e.releases {
		if generation > w.id.Generation && next.listeners != nil && next.cfg.User.uid() != r.cfg.User.uid() {
			err = fmt.Errorf("the workers' user changes from uid %d to uid %d", r.cfg.User.uid(), next.cfg.User.uid())
		}
	}
	if err == nil {
		l, err = r.listeners.Learn(e.slots, p)
	}
	if why := fmt.Sprint(err); err != nil && why == e.notLearned {
		return 0, false // said
	}
	if err != nil {
		e.notLearned = err.Error()
		e.log.Error("cannot make a listener of what the worker listens on: it is the only one that serves there", "slot", w.id.Slot, "pid", w.process.PID(), "why", err)
		return 0, false
	}
	e.learned = append(e.learned, l)
	for _, other := range e.releases { // a roll may be under way
		if other != r && other.learns && other.listeners != nil && other.cfg.User.uid() == r.cfg.User.uid() {
			other.listeners.Include(r.listeners)
		}
	}
	e.log.Info("learned", "listener", l.Name, "address", l.Address(), "slot", w.id.Slot)
	e.events.Add(control.Event{Type: control.EventLearned, Slot: &w.id.Slot, Reason: l.Address() + ", from the worker's listen(2)"})
	return r.listeners.Match(w.id.Slot, p)
}

// mayLearn says why an address is not made a listener. A path is one for workers of the
// master's own user alone: others may swap its directories, and have the master touch what
// they may not.
func (e *executor) mayLearn(r *release, network, path string) error {
	switch {
	case network == "unix" && r.cfg.User.isAnother():
		return fmt.Errorf("the path %s is another user's: declare it: --listen unix://%s", path, path)
	case len(e.learned) >= maxLearned:
		return fmt.Errorf("the app has learned %d listeners, the most that it may", maxLearned)
	}
	return checkDescriptors(r.cfg, len(e.learned)+1, e.slots)
}

// unlearn gives up the learned listeners that a new release's workers no longer bind.
func (e *executor) unlearn(r *release) {
	if r == nil || r.listeners == nil || !r.learns {
		return
	}
	e.unlearned(r.listeners.Unlearn(), "no worker of the new generation listens there")
}

func (e *executor) unlearned(gone []sockets.Listener, why string) {
	for _, l := range gone {
		e.learned = slices.DeleteFunc(e.learned, func(one sockets.Listener) bool { return one.Name == l.Name })
		e.log.Info("no worker listens there any more", "listener", l.Name, "address", l.Address())
		e.events.Add(control.Event{Type: control.EventUnlearned, Reason: l.Address() + ": " + why})
	}
}
