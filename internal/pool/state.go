package pool

import (
	"fmt"
	"slices"
	"time"
)

// ID identifies a worker: its slot, the roll that started it, and the number of
// the start in that slot. Unlike a pid it is never used again.
type ID struct{ Slot, Generation, Attempt int }

// String is slot.generation#attempt.
func (id ID) String() string { return fmt.Sprintf("%d.%d#%d", id.Slot, id.Generation, id.Attempt) }

// State is the state of a worker, or of a slot without a live worker
// (docs/contract.md, Words).
type State string

// Worker states, then slot states. A slot with a live worker has StateLive.
const (
	StateStarting State = "starting"
	StateReady    State = "ready"
	StateDraining State = "draining"
	StateGone     State = "gone"

	StateBackoff State = "backoff" // starts again at a known time
	StateExited  State = "exited"  // ended cleanly and is not restarted
	StateFailed  State = "failed"  // gave up
	StateLive    State = ""
)

// Reason is why a worker is asked to drain, as in the channel's messages
// (docs/contract.md, Channel and counters page).
type Reason string

// The reasons. A worker that is replaced, or was not ready in time, has ReasonRecycle.
const (
	ReasonRoll    Reason = "roll"
	ReasonScale   Reason = "scale"
	ReasonRecycle Reason = "recycle"
	ReasonStop    Reason = "stop"
)

// Cause is what another worker of the same generation is started in a slot for. It is
// for counting: a Why says more.
type Cause string

// The causes: first those of a worker that ended by itself or came to nothing, then those
// of ReplaceRequested.
const (
	CauseExited   Cause = "exited"    // with status 0
	CauseCrashed  Cause = "crashed"   // with any other, or by a signal
	CauseOOM      Cause = "oom"       // by the OOM killer
	CauseNotReady Cause = "not_ready" // it could not be started, or was not ready in time

	CauseStalled     Cause = "stalled"
	CauseWatchdog    Cause = "watchdog"
	CauseMaxAge      Cause = "max_age"
	CauseMaxRequests Cause = "max_requests"
	CauseMaxRSS      Cause = "max_rss"
	CauseRequested   Cause = "requested" // somebody asked for it
)

// Causes lists them all.
func Causes() []Cause {
	return []Cause{
		CauseExited, CauseCrashed, CauseOOM, CauseNotReady,
		CauseStalled, CauseWatchdog, CauseMaxAge, CauseMaxRequests, CauseMaxRSS, CauseRequested,
	}
}

// Exit is how a process ended: Code 0..255, or -1 and the Signal's number; OOM: it was
// the OOM killer's. Words is the text for logs: "exit status 3", "killed by SIGKILL".
type Exit struct {
	Code   int
	Signal int
	OOM    bool
	Words  string
}

// Clean reports whether a process ended with status 0.
func (e Exit) Clean() bool { return e.Code == 0 && e.Signal == 0 }

// Worker is one process that fills a slot, from Start until Exited or StartFailed.
type Worker struct {
	ID            ID
	State         State // StateStarting, StateReady or StateDraining
	Running       bool  // the program runs: Started came
	HelloReceived bool
	Notified      bool
	Listened      bool
	Elsewhere     string // where it listens, if that is none of the app's listeners
	Accepting     bool
	Idled         bool
	StartedAt     time.Time // when the program began to run
	ReadyAt       time.Time
	ReadyHow      string // what showed that it was ready: "accepting", "said READY=1", "alive for 1s"
	Reason        Reason // why it drains
	Killed        bool   // SIGKILL has been sent
	Stalled       bool   // connections wait and it takes none

	deadline  time.Time // of a drain; zero: none
	unwanted  Reason    // retire it with this reason as soon as it runs
	replaceAt time.Time // when it is replaced if it is still stalled; zero: that has been asked for
	abort     bool      // SIGABRT in place of its stop signal
}

// Slot is one place of the app. It outlives its workers.
type Slot struct {
	Index      int
	State      State // StateBackoff, StateExited, StateFailed, or StateLive
	Generation int   // the one that is to run here
	Workers    []*Worker
	Restarts   int
	NextStart  time.Time // of StateBackoff
	Why        string    // of StateBackoff, StateExited and StateFailed
	LastExit   LastExit

	failures int       // in a row
	inRow    int       // restarts in a row, those after clean ends included
	leaving  leaving   // set while the slot is being removed
	notifies bool      // its last worker reported when it was ready
	lostAt   time.Time // it has had no ready worker since; zero: it has one
}

// LastExit is how a slot's last worker ended, for whatever reason.
type LastExit struct {
	At   time.Time // zero: none has ended yet
	Exit Exit
	Why  string // Exit's words, or what the pool did to it
}

// leftover is a group of left-over processes: of a dead worker or a killed master.
type leftover struct {
	id       ID
	deadline time.Time // of SIGKILL; zero: sent
}

// stop is the kind of stop that has been requested.
type stop int

const (
	stopNone stop = iota
	stopGraceful
	stopNow
)

// Pool is the desired and the observed state of an app. Only Step changes it. It is
// not safe for concurrent use.
type Pool struct {
	settings map[int]Settings // by generation
	slots    []*Slot
	left     []leftover
	attempts map[int]int // by slot, removed slots included

	wanted     int // slots; those above leave
	configured int // slots in the configuration of the last roll
	turns      int // Leave actions so far

	last      int   // the highest generation number given out
	current   int   // the app's generation; single slots may differ during and after a failed roll
	kept      []int // generations prepared and not forgotten
	roll      *roll
	requested bool // another roll follows the current one
	reload    bool // that one reads the configuration
	lastRoll  RollEnded

	replacements []*replacement // asked for and not answered, in this order
	overloaded   bool           // so many workers are stalled that nothing is done about it

	standby     bool      // no workers are wanted until the next roll
	hostDrain   bool      // the host is advertised as draining
	stopAt      time.Time // when the requested stop begins; zero: not requested, or begun
	stop        stop
	killedAt    time.Time // of the last SIGKILL
	began       bool
	bootBy      time.Time // deadline for the first ready worker; zero once the app is up
	up          bool
	upAt        time.Time
	fallback    fallback
	ran         bool   // a worker has run
	failure     string // why the app stops by itself
	failureCode int
	steering    []int
	job         bool // a worker was ready that listens nowhere, and none has listened since
	exited      bool

	now     time.Time // of the current Step
	actions []Action
}

// New returns a pool of n slots, at least 1, without workers. Its first event is
// Began. configured is the number in the configuration; if n differs, it was set by
// scale and holds until that number changes.
func New(s Settings, n, configured int) *Pool {
	if n < 1 {
		panic(fmt.Sprintf("pool: %d slots", n))
	}
	p := &Pool{settings: map[int]Settings{1: s}, attempts: map[int]int{}, wanted: n, configured: configured}
	for i := range n {
		p.slots = append(p.slots, &Slot{Index: i})
	}
	return p
}

// of returns the settings of a generation. They are kept while a worker of it lives
// or may be started.
func (p *Pool) of(generation int) Settings {
	s, ok := p.settings[generation]
	if !ok {
		panic(fmt.Sprintf("pool: no settings of generation %d: %+v", generation, p.View()))
	}
	return s
}

// find returns a live worker, nil when the pool no longer knows it.
func (p *Pool) find(id ID) (*Slot, *Worker) {
	if id.Slot < 0 || id.Slot >= len(p.slots) {
		return nil, nil
	}
	s := p.slots[id.Slot]
	for _, w := range s.Workers {
		if w.ID == id {
			return s, w
		}
	}
	return s, nil
}

// workers calls f for every live worker, in the order of slots and attempts. f may
// remove its worker.
func (p *Pool) workers(f func(*Slot, *Worker)) {
	for _, s := range p.slots {
		for _, w := range slices.Clone(s.Workers) {
			f(s, w)
		}
	}
}

func (p *Pool) alive() int {
	n := len(p.left)
	for _, s := range p.slots {
		n += len(s.Workers)
	}
	return n
}

// serving returns the newest worker of a generation (0: of any) that is not draining.
func (s *Slot) serving(generation int) *Worker {
	for _, w := range slices.Backward(s.Workers) {
		if w.serves() && (generation == 0 || w.ID.Generation == generation) {
			return w
		}
	}
	return nil
}

// serves reports whether a worker is, or will be, ready and is to stay.
func (w *Worker) serves() bool { return w.State != StateDraining && w.unwanted == "" }

// keepServing sets the slot's generation to that of the worker that serves, and
// reports whether there is one.
func (s *Slot) keepServing() bool {
	w := s.serving(0)
	if w != nil {
		s.Generation = w.ID.Generation
	}
	return w != nil
}

func (s *Slot) ready() bool { return s.newestReady() != nil }

func (s *Slot) newestReady() *Worker {
	for _, w := range slices.Backward(s.Workers) {
		if w.State == StateReady {
			return w
		}
	}
	return nil
}

// accepting is the generation that gets the slot's new connections: the newest
// ready one, else the slot's own.
func (s *Slot) accepting() int {
	if w := s.newestReady(); w != nil {
		return w.ID.Generation
	}
	return s.Generation
}

// stalled reports whether the worker that gets the slot's new connections takes none.
func (s *Slot) stalled() bool {
	w := s.newestReady()
	return w != nil && w.Stalled
}

// settled reports whether the slot has a ready worker of its generation.
func (s *Slot) settled() bool {
	w := s.serving(s.Generation)
	return w != nil && w.State == StateReady
}

func (s *Slot) over() bool { return s.State == StateExited || s.State == StateFailed }

func (p *Pool) do(a Action) { p.actions = append(p.actions, a) }

// earliest returns the earlier of two times. A zero time is none.
func earliest(a, b time.Time) time.Time {
	switch {
	case a.IsZero():
		return b
	case b.IsZero() || a.Before(b):
		return a
	default:
		return b
	}
}
