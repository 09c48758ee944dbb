package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/eventlog"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/ipc"
)

// mostAsking is how many orders may wait for the end of one roll.
const mostAsking = 16

// Obey implements fleet.Source. The answer to an order is an event whose reason
// begins with the order's id: of the order's own type where it was carried out,
// of type refused where it was not. A roll is answered when it begins and when it
// has ended.
func (s *source) Obey(ctx context.Context, orders []fleet.Command) error {
	_, err := ask(ctx, s.backend, func() struct{} {
		for _, c := range orders {
			s.obey(c)
		}
		return struct{}{}
	})
	return err
}

// obey runs on the loop's goroutine.
func (s *source) obey(c fleet.Command) {
	h := s.loop.events
	err := errors.New(c.Refused)
	if c.Refused == "" {
		err = s.carryOut(c)
	}
	if err != nil {
		s.loop.log.Warn("an order from Redis is refused", "op", c.Op, "id", c.ID, "why", err)
		h.Add(control.Event{Type: control.EventRefused, Reason: eventlog.CommandReason(c.ID, err.Error())})
		return
	}
	s.loop.log.Info("an order from Redis is carried out", "op", c.Op, "id", c.ID)
}

// carryOut does what is asked for.
func (s *source) carryOut(c fleet.Command) error {
	l := s.loop
	if l.pool.Stopping() {
		return errors.New("the app is stopping")
	}
	switch c.Op {
	case fleet.OpScale:
		scale, err := control.ParseScale(c.Args.Workers)
		if err != nil {
			return err
		}
		return s.answered(c, control.EventScaled, "there are as many workers already", func() error { _, err := s.scale(scale); return err })
	case fleet.OpDrain:
		return s.answered(c, control.EventDraining, "the host drains already", func() error { return s.drain(true) })
	case fleet.OpResume:
		return s.answered(c, control.EventResumed, "the host serves already", func() error { return s.drain(false) })
	case fleet.OpShed:
		n := s.host.shed(c.Args.Count, time.Duration(c.Args.Seconds)*time.Second)
		l.events.Add(control.Event{Type: control.EventShed, Reason: eventlog.CommandReason(c.ID, fmt.Sprintf("connections to close: %d, over %d s", n, c.Args.Seconds))})
		return nil
	case fleet.OpRoll:
		return s.roll(c.ID)
	default:
		return fmt.Errorf("there is no order %q", c.Op)
	}
}

// answered carries an order out. What it changes tells of itself, by an event of a
// type that answers the order; where it changes nothing, that is said.
func (s *source) answered(c fleet.Command, kind, unchanged string, do func() error) error {
	h := s.loop.events
	h.Pending = eventlog.PendingCommand{ID: c.ID, Type: kind}
	err := do()
	waits := h.Pending.ID != ""
	h.Pending = eventlog.PendingCommand{}
	if err == nil && waits {
		h.Add(control.Event{Type: kind, Reason: eventlog.CommandReason(c.ID, unchanged)})
	}
	return err
}

// roll asks for a roll, whose events will answer the order. Where it has to wait for
// another to end, or has been asked for before, its beginning is answered now.
func (s *source) roll(id string) error {
	l := s.loop
	busy := l.pool.Summary().Roll != nil
	l.step(pool.RollRequested{})
	generation := l.pool.Requested()
	asking := l.events.Waiting
	if len(asking[generation]) == mostAsking {
		return fmt.Errorf("%d orders wait for the roll to generation %d already", mostAsking, generation)
	}
	asking[generation] = append(asking[generation], id)
	if busy {
		l.events.Add(control.Event{
			Type: control.EventRollStarted, Generation: &generation,
			Reason: eventlog.CommandReason(id, "after the roll that is under way, to generation "+strconv.Itoa(generation)),
		})
	}
	return nil
}

// connections counts what all workers have open that count. Those of an app are
// all of one program: who does not count is starting, or none does.
func (h *host) connections() (open int64, known bool) {
	for _, w := range h.workers {
		if c, counts := w.counters(); counts {
			open += int64(c.Open)
			known = true
		}
	}
	return open, known
}

// shed asks workers to close so many of their connections, those that have most
// the most. It returns how many it has asked for.
func (h *host) shed(count int, over time.Duration) (asked int) {
	type holder struct {
		w    *worker
		open int
	}
	var all []holder
	total := 0
	for _, w := range h.workers {
		if c, counts := w.counters(); counts && c.Open > 0 && w.channel != nil {
			all = append(all, holder{w, int(min(c.Open, maxShed))})
			total += all[len(all)-1].open
		}
	}
	slices.SortFunc(all, func(a, b holder) int { return cmp.Compare(b.open, a.open) })
	left := min(count, total)
	for _, one := range all {
		// Of what is left to ask for, its share of what is left to ask of.
		n := (left*one.open + total - 1) / total
		left, total = left-n, total-one.open
		if n > 0 && one.w.channel.send(ipc.Shed{Count: n, Over: over}) == nil {
			asked += n
		}
	}
	return asked
}
