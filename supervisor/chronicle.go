package supervisor

import (
	"os"
	"strconv"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
)

// How much is remembered.
const (
	keptEvents = 1024
	keptExits  = 32
	keptRolls  = 16
)

// chronicle is what has happened, for events and describe: bounded, the newest
// kept. It is the loop's.
type chronicle struct {
	boot   string // of this master's life
	host   string
	seq    uint64
	events []control.Event
	more   chan struct{} // closed with the next event
	exits  []exitRecord
	rolls  []control.RollRecord

	order  pendingOrder     // from Redis, that is carried out now
	asking map[int][]string // orders that asked for a generation, by their ids

	readyAt  map[pool.ID]time.Time
	rolling  int       // the generation of the roll under way
	begun    bool      // its first step has been told of
	rollFrom time.Time // when it began
}

func newChronicle(startedAt time.Time) *chronicle {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return &chronicle{
		boot:    strconv.FormatInt(startedAt.UnixMicro(), 36),
		host:    host,
		more:    make(chan struct{}),
		readyAt: map[pool.ID]time.Time{},
		asking:  map[int][]string{},
	}
}

// after returns the events that came after one, as far as they are kept.
func (c *chronicle) after(seq uint64) control.EventPage {
	page := control.EventPage{Boot: c.boot, More: c.more}
	for i, e := range c.events {
		if e.Seq > seq {
			page.Missed = e.Seq - seq - 1
			page.Events = append(page.Events, c.events[i:]...)
			break
		}
	}
	return page
}

// add records an event and wakes those who wait for it.
func (c *chronicle) add(e control.Event) {
	c.seq++
	e.Seq, e.Time, e.Host = c.seq, time.Now(), c.host
	if c.order.id != "" && e.Type == c.order.kind {
		e.Reason = orderReason(c.order.id, e.Reason)
		c.order = pendingOrder{}
	}
	c.events = push(c.events, e, keptEvents)
	close(c.more)
	c.more = make(chan struct{})
}

// pendingOrder is an order that the next event of a type answers.
type pendingOrder struct{ id, kind string }

// orderReason is the reason of an event that answers an order.
func orderReason(id, why string) string {
	if why == "" {
		return "command " + id
	}
	return "command " + id + ": " + why
}

// push appends to a list of at most n, the oldest going first.
func push[T any](list []T, v T, n int) []T {
	if len(list) == n {
		copy(list, list[1:])
		list = list[:n-1]
	}
	return append(list, v)
}

// witness is what the edge knows of a worker that moved.
type witness struct {
	pid    int          // 0: it has none
	output *output.Tail // the last lines that it wrote
}

// exitRecord is how a worker ended. Its last lines may come after its end: the
// tail is read when somebody asks.
type exitRecord struct {
	control.Exit
	output *output.Tail
}

// history shows the exits.
func (c *chronicle) history() []control.Exit {
	exits := make([]control.Exit, len(c.exits))
	for i, e := range c.exits {
		exits[i] = e.Exit
		exits[i].Output = e.output.Lines()
	}
	return exits
}

// record takes note of what the pool has decided or learned.
func (c *chronicle) record(action pool.Action, seen witness) {
	switch a := action.(type) {
	case pool.StateChanged:
		c.moved(a, seen)
	case pool.RollProgress:
		c.rollMoved(a)
	case pool.RollEnded:
		c.rollEnded(a)
	case pool.AppUp:
		why := ""
		if a.Ready < a.Wanted {
			why = "degraded: " + ratio(a.Ready, a.Wanted) + " workers are ready"
		}
		c.add(control.Event{Type: control.EventUp, Reason: why})
	case pool.Scaled:
		c.add(control.Event{Type: control.EventScaled, Reason: strconv.Itoa(a.From) + " to " + strconv.Itoa(a.To) + " workers: " + a.Why})
	case pool.HostDrainChanged:
		kind := control.EventResumed
		if a.Draining {
			kind = control.EventDraining
		}
		c.add(control.Event{Type: kind, Reason: a.Why})
	case pool.AppExited:
		c.add(control.Event{Type: control.EventDown, Reason: a.Why})
	default:
		// The others are orders, and what comes of them is recorded.
	}
}

func ratio(n, of int) string { return strconv.Itoa(n) + " of " + strconv.Itoa(of) }

func (c *chronicle) moved(a pool.StateChanged, seen witness) {
	kind := ""
	switch {
	case a.To == pool.StateReady:
		kind = control.EventReady
		c.readyAt[a.ID] = time.Now()
	case a.To == pool.StateGone:
		kind = control.EventExited
		if a.From != pool.StateDraining && !a.Exit.Clean() {
			kind = control.EventCrashed
		}
		c.exited(a, seen)
	case a.To == pool.StateBackoff && a.Wait > 0:
		kind = control.EventBackoff
		a.Why = "starts again in " + a.Wait.String() + ": " + a.Why
	case a.To == pool.StateFailed:
		kind = control.EventFailed
	default:
		return
	}
	c.add(control.Event{Type: kind, Slot: new(a.ID.Slot), Generation: new(a.ID.Generation), PID: known(seen.pid), Reason: a.Why})
}

// exited adds to the history of exits.
func (c *chronicle) exited(a pool.StateChanged, seen witness) {
	how := lastExit(pool.LastExit{At: time.Now(), Exit: a.Exit, Why: a.Why})
	exit := control.Exit{
		Slot: a.ID.Slot, Generation: a.ID.Generation, PID: seen.pid,
		At: how.At, Code: how.Code, Signal: how.Signal, Reason: how.Reason,
	}
	if at, ready := c.readyAt[a.ID]; ready {
		exit.ReadyFor = new(time.Since(at).Seconds())
		delete(c.readyAt, a.ID)
	}
	c.exits = push(c.exits, exitRecord{exit, seen.output}, keptExits)
}

// known is a number that is 0 where it is not known.
func known(n int) *int {
	if n == 0 {
		return nil
	}
	return &n
}

func (c *chronicle) rollMoved(a pool.RollProgress) {
	switch {
	case a.Phase == pool.RollPreparing && c.rolling != a.To:
		c.rolling, c.begun = a.To, false
		c.rollFrom = time.Now()
	case a.Phase == pool.RollRolling && !c.begun:
		c.begun = true
		why := "from generation " + strconv.Itoa(a.From)
		if a.Reload {
			why += ", the configuration read anew"
		}
		if ids := c.asking[a.To]; len(ids) > 0 {
			why = orderReason(ids[0], why)
		}
		c.add(control.Event{Type: control.EventRollStarted, Generation: new(a.To), Reason: why})
	}
}

func (c *chronicle) rollEnded(a pool.RollEnded) {
	kind, why := rollEvent(a.Result), a.Why
	if kind == control.EventRollFailed {
		why = a.String()
	}
	ids := c.asking[a.Generation]
	delete(c.asking, a.Generation)
	if len(ids) == 0 {
		c.add(control.Event{Type: kind, Generation: new(a.Generation), Reason: why})
	}
	for _, id := range ids {
		c.add(control.Event{Type: kind, Generation: new(a.Generation), Reason: orderReason(id, why)})
	}
	c.rolls = push(c.rolls, control.RollRecord{
		Generation: a.Generation, Result: string(a.Result), Error: a.Why,
		StartedAt: c.rollFrom, EndedAt: time.Now(),
	}, keptRolls)
}

// rollEvent is the type of event by which the end of a roll is told.
func rollEvent(r pool.Result) string {
	switch r {
	case pool.ResultDone:
		return control.EventRollDone
	case pool.ResultRolledBack:
		return control.EventRolledBack
	case pool.ResultFailed, pool.ResultPaused, pool.ResultCanceled:
	}
	return control.EventRollFailed
}
