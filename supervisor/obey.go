package supervisor

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/ipc"
)

// Obey implements fleet.Source. The answer to an order is an event whose reason
// begins with the order's id: of the order's own type where it was carried out,
// of type refused where it was not. A roll is answered when it begins and when it
// has ended.
func (s *source) Obey(c fleet.Command) {
	go s.tell(func() pool.Event {
		s.obey(c)
		return nil
	})
}

// obey runs on the loop's goroutine.
func (s *source) obey(c fleet.Command) {
	h := s.loop.chronicle
	h.cause = "command " + c.ID + ": "
	defer func() { h.cause = "" }()
	said := h.seq
	kind, text, err := s.carryOut(c)
	switch {
	case err != nil:
		s.loop.log.Warn("an order from Redis is refused", "op", c.Op, "id", c.ID, "why", err)
		h.add(control.Event{Type: control.EventRefused, Reason: err.Error()})
	case h.seq == said: // nothing has changed that tells of itself
		h.add(control.Event{Type: kind, Reason: text})
	}
}

// carryOut does what is asked for, and says what there is to answer where no
// event tells of it.
func (s *source) carryOut(c fleet.Command) (kind, text string, err error) {
	l := s.loop
	if l.pool.Stopping() {
		return "", "", errors.New("the app is stopping")
	}
	switch c.Op {
	case fleet.OpScale:
		return control.EventScaled, "there are as many workers already", s.scale(c.Args.Workers)
	case fleet.OpDrain, fleet.OpResume:
		kind, text = control.EventResumed, "the host serves already"
		if c.Op == fleet.OpDrain {
			kind, text = control.EventDraining, "the host drains already"
		}
		l.step(pool.HostDrainRequested{Draining: c.Op == fleet.OpDrain})
		return kind, text, nil
	case fleet.OpShed:
		n := s.host.shed(c.Args.Count, time.Duration(c.Args.Seconds)*time.Second)
		return control.EventShed, fmt.Sprintf("connections to close: %d, over %d s", n, c.Args.Seconds), nil
	case fleet.OpRoll:
		w := l.requestRoll(false)
		go s.answerRoll(c.ID, w)
		return control.EventRollStarted, "generation " + strconv.Itoa(w.generation), nil
	default:
		return "", "", fmt.Errorf("there is no order %q", c.Op)
	}
}

func (s *source) scale(text string) error {
	scale, err := control.ParseScale(text)
	if err != nil {
		return err
	}
	v := s.loop.pool.Summary()
	n, err := scale.Workers(v.Wanted, s.host.current(v.Generation).cfg.CPUs)
	if err != nil {
		return err
	}
	return s.loop.scale(n)
}

// answerRoll tells how a roll has ended that was asked for by an order.
func (s *source) answerRoll(id string, w *waiting) {
	<-w.ended
	o := w.outcome
	s.tell(func() pool.Event {
		kind, why := rollEvent(o.result), o.why
		if why == "" {
			why = string(o.result)
		}
		s.loop.chronicle.add(control.Event{Type: kind, Generation: known(o.generation), Reason: "command " + id + ": " + why})
		return nil
	})
}

// connections counts what all workers have open; not known where one that serves
// does not count.
func (h *host) connections() (open int64, counted bool) {
	for _, w := range h.workers {
		if c, counts := w.counters(); counts {
			open += int64(c.Open)
			counted = true
		}
	}
	return open, counted
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
