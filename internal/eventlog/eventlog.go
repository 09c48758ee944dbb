// Package eventlog remembers what has happened to an app, for "forkd events" and
// "forkd describe": bounded, the newest kept. It turns the pool's actions into
// events and must not decide or perform anything.
package eventlog

import (
	"cmp"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/state"
)

// How much is kept.
const (
	maxEvents = 1024
	maxExits  = 32
	maxRolls  = 16
)

// MaxReason bounds the reason of an event, in bytes: all events fit into an answer of
// the control API.
const MaxReason = 1 << 10

// A Log is the loop's: it is not for concurrent use.
type Log struct {
	boot   string // of this master's life
	host   string
	seq    uint64
	events []control.Event
	more   chan struct{} // closed with the next event
	exits  []exit
	rolls  []control.RollRecord
	counts control.Counts
	state  *state.State // nil: nothing outlives the master

	Waiting map[int][]string // commands that asked for a generation, by their ids
	By      string           // who asks, while the loop does what was asked for
	Asked   map[int]string   // who asked first for a generation
	Stopped string           // who asked first for the stop

	readyAt  map[pool.ID]time.Time
	rolling  int       // the generation of the roll under way
	begun    bool      // its EventRollStarted is written
	rollFrom time.Time // when it began
}

// New returns an empty Log of a master that started then. What it records is also
// appended to the state; nil: to none.
func New(startedAt time.Time, kept *state.State) *Log {
	host, _ := os.Hostname() // "" where it has none
	return &Log{
		boot:    strconv.FormatInt(startedAt.UnixMicro(), 36),
		host:    host,
		more:    make(chan struct{}),
		counts:  newCounts(),
		state:   kept,
		readyAt: map[pool.ID]time.Time{},
		Waiting: map[int][]string{},
		Asked:   map[int]string{},
	}
}

// Boot names this master's life: sequence numbers begin anew with each.
func (l *Log) Boot() string { return l.boot }

// After returns the events after a sequence number, as far as they are kept.
func (l *Log) After(seq uint64) control.EventPage {
	page := control.EventPage{Boot: l.boot, More: l.more}
	for i, e := range l.events {
		if e.Seq > seq {
			page.Missed = e.Seq - seq - 1
			page.Events = append(page.Events, l.events[i:]...)
			break
		}
	}
	return page
}

// Add records an event, with its number, time and host, and wakes those who wait
// for it.
func (l *Log) Add(e control.Event) {
	l.seq++
	e.Seq, e.Time, e.Host = l.seq, time.Now(), l.host
	e.By = cmp.Or(e.By, l.By)
	e.Reason = control.Cut(e.Reason, MaxReason)
	l.events = push(l.events, e, maxEvents)
	l.state.Append(state.Record{Boot: l.boot, Event: &e})
	close(l.more)
	l.more = make(chan struct{})
}

// Seq returns the number of the newest event.
func (l *Log) Seq() uint64 { return l.seq }

// Attribute gives the newest event of a type, if it came after a sequence number,
// the id of a command. It reports whether there was one. The loop calls it before
// anybody reads the event.
func (l *Log) Attribute(after uint64, kind, command string) bool {
	for i := len(l.events) - 1; i >= 0 && l.events[i].Seq > after; i-- {
		if l.events[i].Type == kind {
			l.events[i].Command = command
			return true
		}
	}
	return false
}

// push appends to a list of at most n, the oldest going first.
func push[T any](list []T, v T, n int) []T {
	if len(list) == n {
		copy(list, list[1:])
		list = list[:n-1]
	}
	return append(list, v)
}

// exit is how a worker ended. Its last lines may come after its end: the tail is
// read when somebody asks.
type exit struct {
	control.Exit
	output *output.Tail
}

// Exits returns the last exits, oldest first, with what the workers wrote last.
func (l *Log) Exits() []control.Exit {
	exits := make([]control.Exit, len(l.exits))
	for i, e := range l.exits {
		exits[i] = e.Exit
		exits[i].Output = e.output.Lines()
	}
	return exits
}

// newCounts has every kind that there is, so that the first of each is seen to come.
func newCounts() control.Counts {
	c := control.Counts{Restarts: map[string]int64{}, Rolls: map[string]int64{}}
	for _, cause := range pool.Causes() {
		c.Restarts[string(cause)] = 0
	}
	for _, result := range []pool.Result{pool.ResultDone, pool.ResultRolledBack, pool.ResultPaused, pool.ResultFailed, pool.ResultCanceled} {
		c.Rolls[counted(result)] = 0
	}
	return c
}

// counted is what a roll's result is counted as: one word.
func counted(r pool.Result) string {
	if r == pool.ResultFailed {
		return "failed"
	}
	return string(r)
}

// Counts returns how often what has happened, since the start.
func (l *Log) Counts() control.Counts {
	return control.Counts{Restarts: maps.Clone(l.counts.Restarts), Rolls: maps.Clone(l.counts.Rolls)}
}

// Rolls returns the last rolls, oldest first.
func (l *Log) Rolls() []control.RollRecord { return slices.Clone(l.rolls) }
