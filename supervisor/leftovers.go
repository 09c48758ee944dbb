package supervisor

import (
	"time"

	"github.com/forkd/forkd/internal/adopt"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
)

// inherit has the pool decide about what a killed master has left, and tells it of
// new ones and of ends. The first report is that of all that were found at the start.
func (h *host) inherit(left *adopt.Leftovers, step func(pool.Event)) {
	if n := left.Len(); n > 0 {
		h.log.Warn("a killed master has left workers: they may finish what they have", "processes", n, "for", max(0, time.Until(left.KillAt)).Round(time.Second))
	}
	err := left.Watch(func(found, ended []*adopt.Leftover) bool {
		return h.tell(func() pool.Event {
			for _, l := range found {
				step(h.adoptLeftover(l))
			}
			for _, l := range ended {
				step(pool.GroupEnded{ID: l.ID})
			}
			return nil
		})
	})
	if err != nil {
		h.log.Error("cannot wait for a killed master's workers", "why", err)
	}
}

func (h *host) adoptLeftover(l *adopt.Leftover) pool.Event {
	h.leftovers[l.ID] = l
	h.events.Add(control.Event{Type: control.EventLeftover, Slot: l.Slot, PID: &l.PID, Reason: "left by a killed master, draining"})
	return pool.Inherited{ID: l.ID, Deadline: l.KillAt}
}

// showLeftover is how status shows one.
func showLeftover(l *adopt.Leftover) control.Leftover {
	out := control.Leftover{Slot: l.Slot, PID: l.PID, State: string(pool.StateDraining), KillAt: &l.KillAt, Processes: 1, Reason: "left by a master that was killed"}
	if !l.StartedAt.IsZero() {
		out.StartedAt = &l.StartedAt
	}
	return out
}
