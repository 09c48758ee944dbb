package supervisor

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/ipc"
)

// maxRollWaiters is how many commands may wait for one roll.
const maxRollWaiters = 16

// byFleet is what asked, where a command of the fleet did.
const byFleet = "the fleet"

// execute runs a command of the fleet. The events that it causes carry its id: one of
// its own type when it was executed, "refused" when it was not. A roll has one when
// it begins and one when it has ended. An id that was executed before is ignored.
func (l *loop) execute(c control.Command) error {
	if !l.commands.add(c.ID) {
		return nil
	}
	err := errors.New(c.Refused)
	if c.Refused == "" {
		err = l.dispatch(c)
	}
	if err != nil {
		l.log.Warn("a command of the fleet is refused", "op", c.Op, "id", c.ID, "why", err)
		l.events.Add(control.Event{Type: control.EventRefused, Reason: err.Error(), Command: c.ID})
		return conflict(err)
	}
	l.log.Info("a command of the fleet is executed", "op", c.Op, "id", c.ID)
	return nil
}

func (l *loop) dispatch(c control.Command) error {
	if l.pool.Stopping() {
		return errors.New("the app is stopping")
	}
	switch c.Op {
	case control.OpScale:
		return l.attributed(c, control.EventScaled, "there are as many workers already", func() error {
			_, err := l.scale(control.Scale(c.Args.Workers), byFleet) // Command.Check has made sure that it is one
			return err
		})
	case control.OpDrain:
		return l.attributed(c, control.EventDraining, "the host drains already", func() error { return l.drain(true, byFleet) })
	case control.OpResume:
		return l.attributed(c, control.EventResumed, "the host serves already", func() error { return l.drain(false, byFleet) })
	case control.OpShed:
		n := l.executor.shed(c.Args.Count, time.Duration(c.Args.Seconds)*time.Second)
		l.events.Add(control.Event{Type: control.EventShed, Reason: fmt.Sprintf("connections to close: %d, over %d s", n, c.Args.Seconds), Command: c.ID})
		return nil
	case control.OpRoll, control.OpReload:
		return l.rollFor(c.ID, c.Op == control.OpReload)
	default:
		return fmt.Errorf("there is no command %q", c.Op)
	}
}

// attributed runs do and puts the command's id on the event that it causes. If do
// changes nothing, an event says so.
func (l *loop) attributed(c control.Command, kind, unchanged string, do func() error) error {
	log := l.events
	before := log.Seq()
	err := do()
	if err == nil && !log.Attribute(before, kind, c.ID) {
		log.Add(control.Event{Type: kind, Reason: unchanged, Command: c.ID})
	}
	return err
}

// rollFor asks for a roll, with reload of the configuration read anew, whose events will
// carry the id. Where it has to wait for
// another roll, or was asked for before, an event says so at once.
func (l *loop) rollFor(id string, reload bool) error {
	busy := l.pool.Summary().Roll != nil
	l.step(pool.RollRequested{Reload: reload})
	generation := l.pool.Requested()
	commands := l.events.Waiting
	if len(commands[generation]) == maxRollWaiters {
		return fmt.Errorf("%d commands wait for the roll to generation %d already", maxRollWaiters, generation)
	}
	commands[generation] = append(commands[generation], id)
	if busy {
		l.events.Add(control.Event{
			Type: control.EventRollStarted, Generation: &generation, Command: id,
			Reason: "after the roll that is under way, to generation " + strconv.Itoa(generation),
		})
	}
	return nil
}

// commandIDs remembers the last ids that it was given.
type commandIDs struct {
	ring [1024]string
	next int // in ring: the oldest
}

func (s *commandIDs) add(id string) bool {
	if slices.Contains(s.ring[:], id) {
		return false
	}
	s.ring[s.next] = id
	s.next = (s.next + 1) % len(s.ring)
	return true
}

// shed asks workers to close count connections in all, in proportion to what each has
// open. It returns how many it has asked for.
func (e *executor) shed(count int, over time.Duration) (asked int) {
	type holder struct {
		w    *worker
		open int
	}
	var all []holder
	total := 0
	for _, w := range e.workers {
		if c, counts := w.link.Counters(); counts && c.Open > 0 && w.link.HasChannel() {
			all = append(all, holder{w, int(min(c.Open, maxShed))})
			total += all[len(all)-1].open
		}
	}
	slices.SortFunc(all, func(a, b holder) int { return cmp.Compare(b.open, a.open) })
	left := min(count, total)
	for _, one := range all {
		// Its share of the remaining count, rounded up.
		n := (left*one.open + total - 1) / total
		left, total = left-n, total-one.open
		if n > 0 && one.w.link.Send(ipc.Shed{Count: n, Over: over}) == nil {
			asked += n
		}
	}
	return asked
}
