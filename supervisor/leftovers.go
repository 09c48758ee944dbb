package supervisor

import (
	"time"

	"github.com/forkd/forkd/internal/adopt"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
)

// watchLeftovers reports what a killed master has left, until none of it lives. It
// blocks.
func (e *executor) watchLeftovers(left *adopt.Leftovers) {
	if n := left.Len(); n > 0 {
		e.log.Warn("a killed master has left workers: they may finish what they have", "processes", n, "for", max(0, time.Until(left.KillAt)).Round(time.Second))
	}
	err := left.Watch(func(found, ended []*adopt.Leftover) bool {
		return e.inbox.postReport(leftoversFound{found, ended})
	})
	if err != nil {
		e.log.Error("cannot wait for a killed master's workers", "why", err)
	}
}

// noteLeftovers has the pool decide about new ones, and tells it of ends.
func (e *executor) noteLeftovers(r leftoversFound) (events []pool.Event) {
	for _, l := range r.found {
		e.leftovers[l.ID] = l
		e.events.Add(control.Event{Type: control.EventLeftover, Slot: l.Slot, PID: &l.PID, Reason: "left by a killed master, draining"})
		events = append(events, pool.Inherited{ID: l.ID, Deadline: l.KillAt})
	}
	for _, l := range r.ended {
		events = append(events, pool.GroupEnded{ID: l.ID})
	}
	return events
}

// showLeftover is how status shows one.
func showLeftover(l *adopt.Leftover) control.Leftover {
	out := control.Leftover{Slot: l.Slot, PID: l.PID, State: string(pool.StateDraining), KillAt: &l.KillAt, Processes: 1, Reason: "left by a master that was killed"}
	if !l.StartedAt.IsZero() {
		out.StartedAt = &l.StartedAt
	}
	return out
}
