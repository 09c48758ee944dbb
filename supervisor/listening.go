package supervisor

import (
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/sockets"
)

// addresses names what the app listens on, for a person.
func (h *host) addresses() string {
	var all []string
	for _, l := range h.current(1).lineup.Listeners(0) {
		all = append(all, l.String())
	}
	return strings.Join(all, " ")
}

// listeners are those of a configuration, or, where it has none, those that the
// passed sockets make.
func (h *host) listeners(cfg Config) []sockets.Listener {
	if len(cfg.Listeners) == 0 {
		return h.implied
	}
	ls := slices.Clone(cfg.Listeners)
	for i := range ls {
		giveTo(&ls[i], cfg)
	}
	return ls
}

// giveTo gives a unix socket's file to the workers, as if one of them had made it.
func giveTo(l *Listener, cfg Config) {
	if l.Network != "unix" {
		return
	}
	if cfg.User != nil {
		l.Owner = &sockets.Owner{UID: cfg.User.UID, GID: cfg.User.GID}
	}
	if cfg.Umask >= 0 && l.Perm == 0 {
		l.Perm = fs.ModePerm &^ fs.FileMode(cfg.Umask)
	}
}

// current is a generation's release. The pool keeps that of the newest that a
// slot is to run.
func (h *host) current(generation int) *release { return h.releases[generation] }

// steer leads new connections to the slots where a generation serves, on those
// listeners that it has.
func (h *host) steer(serving []int) {
	lineups := make([]*sockets.ListenerSet, len(serving))
	for slot, generation := range serving {
		if r := h.releases[generation]; r != nil {
			lineups[slot] = r.lineup
			delete(h.leaving, slot)
		}
	}
	if err := h.sockets.Steer(lineups); err != nil {
		h.log.Error("cannot steer new connections", "why", err)
	}
}

// glance is how often the sockets of a slot that leaves are looked at.
const glance = 50 * time.Millisecond

// leave watches a slot's sockets until nothing waits in them any more. It ends
// when the slot has gone, stays after all, or leaves anew.
//
// A look is told of before the next is taken, but may run after that: then it
// finds over closed.
func (h *host) leave(a pool.Leave) {
	h.leaving[a.Slot] = a.Turn
	waiting := h.sockets.Leave(a.Slot)
	over := make(chan struct{})
	go func() {
		again := time.NewTicker(glance)
		defer again.Stop()
		for {
			h.looks.Lock() // one blocks a thread
			half, err := waiting.HalfOpen()
			h.looks.Unlock()
			if !h.tell(func() pool.Event { return h.look(a, half, err, over) }) {
				return
			}
			select {
			case <-over:
				return
			case <-again.C:
			}
		}
	}()
}

// look is one look at the sockets of a slot that leaves. It closes over when no
// other is needed.
func (h *host) look(a pool.Leave, half bool, err error, over chan struct{}) pool.Event {
	select {
	case <-over:
		return nil
	default:
	}
	if h.leaving[a.Slot] != a.Turn || h.unlistened {
		close(over)
		return nil
	}
	if err != nil && h.leaving[a.Slot] == a.Turn && !h.blind {
		h.blind = true // once is enough
		h.log.Warn("cannot see half-open connections: the slot leaves when its queue is empty", "slot", a.Slot, "why", err)
	}
	if queue, known := h.sockets.Queue(a.Slot); half || known && queue > 0 {
		return nil
	}
	close(over)
	delete(h.leaving, a.Slot)
	return pool.Emptied{Slot: a.Slot, Turn: a.Turn}
}

// nameOthers tells of others' sockets on the app's ports. Who has them is looked up
// beside the loop, for one look's at a time.
func (h *host) nameOthers() {
	if h.naming {
		return
	}
	others := h.sockets.Others()
	if len(others) == 0 {
		return
	}
	h.naming = true
	go func() {
		holders := sockets.Holders(others)
		h.tell(func() pool.Event {
			h.naming = false
			for _, o := range others {
				h.tellOther(o, holders[o.ID])
			}
			return nil
		})
	}()
}

func (h *host) tellOther(o sockets.Other, holder sockets.Holder) {
	if !o.Gone {
		h.others[o.ID] = holder.String()
	}
	e := control.Event{Type: control.EventPortShared, Reason: h.others[o.ID] + ": " + o.Consequence()}
	if o.Gone {
		delete(h.others, o.ID)
		e.Type = control.EventPortUnshared
		h.log.Info("port no longer shared", "listener", o.Listener.Name, "why", e.Reason)
	} else {
		h.log.Warn("port shared", "listener", o.Listener.Name, "why", e.Reason)
	}
	h.events.Add(e)
}

// release lets go of a release's sockets: those that no other has are closed.
func (h *host) release(r *release) {
	if r.lineup != nil {
		h.sockets.Release(r.lineup)
		r.lineup = nil
	}
}

// fits reports whether every release that may have to could serve so many slots.
func (h *host) fits(slots int) error {
	for _, r := range h.releases {
		if r.lineup == nil {
			continue
		}
		if err := r.lineup.Fits(slots); err != nil {
			return err
		}
	}
	return nil
}

// unlistenOld closes, when a roll has ended, the listeners that only generations
// have which nothing is started from any more and nobody serves.
func (h *host) unlistenOld() {
	wanted := map[int]bool{}
	for _, generation := range h.serving() {
		wanted[generation] = true
	}
	for generation, r := range h.releases {
		if !wanted[generation] {
			h.release(r)
		}
	}
}
