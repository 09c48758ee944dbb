package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/sockets"
)

// steer directs new connections to the slots where a generation serves, on the
// listeners that it has.
func (e *executor) steer(serving []int) {
	listeners := make([]*sockets.ListenerSet, len(serving))
	for slot, generation := range serving {
		if r := e.releases[generation]; r != nil {
			listeners[slot] = r.listeners
			delete(e.leaving, slot)
		}
	}
	e.logError("cannot steer new connections", e.sockets.Steer(listeners))
}

// logError logs what has failed; nil: nothing has.
func (e *executor) logError(what string, err error, about ...any) {
	if err != nil {
		e.log.Error(what, append(about, "why", err)...)
	}
}

// queuePollInterval is how often the sockets of a slot that leaves are polled.
const queuePollInterval = 50 * time.Millisecond

// leave polls a slot's sockets until no connection waits in them, or the slot has
// gone, stays after all, or leaves again.
func (e *executor) leave(a pool.Leave) {
	e.leaving[a.Slot] = a.Turn
	waiting := e.sockets.Leave(a.Slot)
	done := make(chan struct{})
	go func() {
		for again := time.Tick(queuePollInterval); ; {
			e.polls.Lock() // one blocks a thread
			half, err := waiting.HalfOpen()
			e.polls.Unlock()
			if !e.inbox.postReport(queuePolled{a, half, err, done}) {
				return
			}
			select {
			case <-done:
				return
			case <-again:
			}
		}
	}()
}

// queuePolled closes done when no other poll is needed. The next may be under way.
func (e *executor) queuePolled(p queuePolled) []pool.Event {
	select {
	case <-p.done:
		return nil
	default:
	}
	slot := p.leave.Slot
	if e.leaving[slot] != p.leave.Turn || e.listenersClosed {
		close(p.done)
		return nil
	}
	if p.err != nil && !e.noSockDiag {
		e.noSockDiag = true // once is enough
		e.log.Warn("cannot see half-open connections: the slot leaves when its queue is empty", "slot", slot, "why", p.err)
	}
	if queue, known := e.sockets.Queue(slot); p.halfOpen || known && queue > 0 {
		return nil
	}
	close(p.done)
	delete(e.leaving, slot)
	return []pool.Event{pool.Emptied{Slot: slot, Turn: p.leave.Turn}}
}

func (e *executor) closeSlot(slot int) {
	delete(e.leaving, slot)
	e.logError("cannot close the slot's sockets", e.sockets.CloseSlot(slot), "slot", slot)
}

// pathInterval is how often the paths of unix sockets are looked at while a worker drains.
const pathInterval = time.Millisecond

// watchPaths has the paths of unix sockets linked again as soon as a worker that drains has
// unlinked them, as most programs do: its successor serves there. Those that unlink them at
// their start too bind them next (see called).
func (e *executor) watchPaths(w *worker, listeners []sockets.Listener) {
	listeners = slices.DeleteFunc(listeners, func(l sockets.Listener) bool { return l.Network != "unix" })
	if len(listeners) == 0 {
		return
	}
	for again := time.Tick(pathInterval); ; {
		for _, l := range listeners {
			if _, err := os.Lstat(l.Path); errors.Is(err, fs.ErrNotExist) && !e.inbox.postReport(pathUnlinked{w.id.Slot}) {
				return
			}
		}
		select {
		case <-again:
		case <-w.gone:
			return
		}
	}
}

// linkAgain restores the path of a slot's unix socket. It is nothing to tell of.
func (e *executor) linkAgain(slot int) {
	if !e.listenersClosed {
		_, err := e.sockets.Restore(slot)
		e.logError("cannot restore the sockets", err, "slot", slot)
	}
}

// inspectSockets restores sockets that workers have shut down, and checks for others'
// sockets on the app's ports.
func (e *executor) inspectSockets() {
	restored, err := e.sockets.Restore(sockets.AllSlots)
	if why := fmt.Sprint(err); why != e.lastListenError { // once, not at every inspection
		e.lastListenError = why
		e.logError("cannot restore the sockets", err)
	}
	e.listeningAgain(restored)
	e.recordDamage()
	e.nameOthers()
	e.notices()
}

// restore has a slot's sockets listen as they were made. In a vacant slot it also
// resets the options that workers have set.
func (e *executor) restore(a pool.Restore) {
	restored, err := e.sockets.Restore(a.Slot)
	e.logError("cannot restore the sockets", err, "slot", a.Slot)
	e.listeningAgain(restored)
	if a.Vacant {
		changed, err := e.sockets.Reset(a.Slot)
		e.logError("cannot set socket options back", err, "slot", a.Slot)
		if len(changed) > 0 {
			e.log.Info("socket options set back", "slot", a.Slot, "options", strings.Join(changed, " "))
		}
	}
	e.recordDamage()
}

func (e *executor) listeningAgain(restored []sockets.Restored) {
	for _, r := range restored {
		e.log.Info("listening again", "slot", r.Slot, "why", r.Why)
		e.events.Add(control.Event{Type: control.EventListeningAgain, Slot: &r.Slot, Reason: r.Why})
	}
}

func (e *executor) recordDamage() {
	for _, s := range e.sockets.Damaged() {
		e.log.Warn("socket spoilt", "slot", s.Slot, "why", s.Why)
		ev := control.Event{Type: control.EventSocketSpoilt, Reason: s.Why}
		if s.Slot >= 0 {
			ev.Slot = &s.Slot
		}
		e.events.Add(ev)
	}
}

func (e *executor) notices() {
	for _, notice := range e.sockets.Notices() {
		e.log.Warn(notice)
	}
}

// nameOthers looks up, on a goroutine and one lookup at a time, who has others'
// sockets on the app's ports.
func (e *executor) nameOthers() {
	if e.naming {
		return
	}
	others := e.sockets.Others()
	if len(others) == 0 {
		return
	}
	e.naming = true
	go func() { e.inbox.postReport(holdersFound{others, sockets.Holders(others)}) }()
}

func (e *executor) recordOther(o sockets.Other, holder sockets.Holder) {
	if !o.Gone {
		e.others[o.ID] = holder.String()
	}
	ev := control.Event{Type: control.EventPortShared, Reason: e.others[o.ID] + ": " + o.Consequence()}
	if o.Gone {
		delete(e.others, o.ID)
		ev.Type = control.EventPortUnshared
		e.log.Info("port no longer shared", "listener", o.Listener.Name, "why", ev.Reason)
	} else {
		e.log.Warn("port shared", "listener", o.Listener.Name, "why", ev.Reason)
	}
	e.events.Add(ev)
}
