package pool

import (
	"fmt"
	"slices"
	"time"
)

// ID names one worker for ever: the slot it fills, the roll that started it,
// and which attempt of the slot it is. Never its pid, which is used again.
type ID struct{ Slot, Generation, Attempt int }

// String gives the ID as slot.generation#attempt.
func (id ID) String() string { return fmt.Sprintf("%d.%d#%d", id.Slot, id.Generation, id.Attempt) }

// State is where a worker, or a slot without a live worker, stands. The words
// are those of docs/contract.md, section 1.
type State string

// Worker states, then slot states. A slot with a live worker has none.
const (
	StateStarting State = "starting"
	StateReady    State = "ready"
	StateDraining State = "draining"
	StateGone     State = "gone"

	StateBackoff State = "backoff" // starts again at a known time
	StateExited  State = "exited"  // ended cleanly, and is not to be restarted
	StateFailed  State = "failed"  // gave up
	StateLive    State = ""
)

// Reason is why a worker is asked to drain, as the channel spells it
// (docs/contract.md, section 4).
type Reason string

// The reasons. An unready worker that has used up its time is recycled.
const (
	ReasonRoll    Reason = "roll"
	ReasonScale   Reason = "scale"
	ReasonRecycle Reason = "recycle"
	ReasonStop    Reason = "stop"
)

// Exit is how a process ended: Code 0..255, or -1 and the Signal's number.
// Words is for people: "exit status 3", "killed by SIGKILL".
type Exit struct {
	Code   int
	Signal int
	Words  string
}

// Clean reports whether a process ended by itself and without complaint.
func (e Exit) Clean() bool { return e.Code == 0 && e.Signal == 0 }

// Worker is one process that fills a slot, from the order to start it until its
// end is known.
type Worker struct {
	ID            ID
	State         State // StateStarting, StateReady or StateDraining
	Running       bool  // the program runs: Started came
	HelloReceived bool
	Notified      bool
	StartedAt     time.Time // when the program began to run
	ReadyAt       time.Time
	Reason        Reason // why it drains
	Killed        bool   // SIGKILL has been sent

	deadline time.Time // of a drain; zero: none left
	unwanted Reason    // to be retired as soon as it runs
}

// Slot is one place of the app. It stays when its worker goes.
type Slot struct {
	Index      int
	State      State // StateBackoff, StateExited, StateFailed, or StateLive
	Generation int   // what is to run here
	Workers    []*Worker
	Restarts   int
	NextStart  time.Time // of StateBackoff
	Why        string    // of StateBackoff, StateExited and StateFailed
	LastExit   LastExit

	failures int       // in a row
	inRow    int       // restarts in a row, after clean ends too
	leaving  leaving   // its way out, where it has to go
	notifies bool      // its last worker said when it was ready
	lostAt   time.Time // since when it has had no ready worker; zero: it has one
}

// LastExit is how a slot's last worker ended, whoever ended it.
type LastExit struct {
	At   time.Time // zero: none has ended yet
	Exit Exit
	Why  string // Exit's words, or what the pool did to it
}

// leftover is what lives on of a dead worker, its process group or what has left
// that, or of a killed master.
type leftover struct {
	id       ID
	deadline time.Time // then KILL; zero: sent
}

// stop is how far a stop has been asked for.
type stop int

const (
	stopNone stop = iota
	stopGraceful
	stopNow
)

// Pool is an app: what is wanted of it and what is known of it. Only Step
// changes it. It is not safe for concurrent use.
type Pool struct {
	settings map[int]Settings // by generation
	slots    []*Slot
	left     []leftover
	attempts map[int]int // by slot, of those that have gone too

	wanted     int // slots; those beyond leave
	configured int // slots, by the configuration that was rolled out last
	turns      int // of leaving

	last      int   // the highest generation number given out
	current   int   // the generation that the app runs: slots may differ in a roll, or after one that failed
	kept      []int // generations that have been prepared and not forgotten
	roll      *roll
	requested bool // a roll is wanted after the one under way
	reload    bool // and the configuration read before it
	lastRoll  RollEnded

	standby   bool      // no workers are wanted until the next roll
	hostDrain bool      // the host is said to drain
	stopAt    time.Time // when the stop begins that has been asked for; zero: none has
	stop      stop
	killedAt  time.Time // the last SIGKILL
	began     bool
	bootBy    time.Time // zero once the app is up
	up        bool
	giveUp    string // why the app ends by itself with exit code 1
	steering  []int
	exited    bool

	now     time.Time // of the Step under way
	actions []Action
}

// New returns a pool of n slots, at least 1, in which nothing runs yet. Its first
// event is Began. configured is how many the configuration asks for: another
// number was set by hand, and holds until the configuration's changes.
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

// of returns a generation's settings. They are kept as long as anything of the
// generation may still start or live.
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

// workers calls f for every live worker, in the order of slots and attempts. f
// may remove the worker it is given.
func (p *Pool) workers(f func(*Slot, *Worker)) {
	for _, s := range p.slots {
		for _, w := range slices.Clone(s.Workers) {
			f(s, w)
		}
	}
}

// alive counts live workers and what dead ones left behind.
func (p *Pool) alive() int {
	n := len(p.left)
	for _, s := range p.slots {
		n += len(s.Workers)
	}
	return n
}

// serving returns the slot's worker of a generation that is not draining; of
// any generation for 0. The newest comes first.
func (s *Slot) serving(generation int) *Worker {
	for _, w := range slices.Backward(s.Workers) {
		if w.State != StateDraining && w.unwanted == "" && (generation == 0 || w.ID.Generation == generation) {
			return w
		}
	}
	return nil
}

// keepServing makes the worker that serves the one that is wanted, and reports
// whether there is one.
func (s *Slot) keepServing() bool {
	w := s.serving(0)
	if w != nil {
		s.Generation = w.ID.Generation
	}
	return w != nil
}

// ready reports whether a worker of the slot accepts connections.
func (s *Slot) ready() bool {
	return slices.ContainsFunc(s.Workers, func(w *Worker) bool { return w.State == StateReady })
}

// accepting is the generation whose worker gets the slot's new connections: the
// newest that is ready, else the one that is wanted.
func (s *Slot) accepting() int {
	for _, w := range slices.Backward(s.Workers) {
		if w.State == StateReady {
			return w.ID.Generation
		}
	}
	return s.Generation
}

// settled reports whether the slot has a ready worker of the generation that it
// is to run.
func (s *Slot) settled() bool {
	w := s.serving(s.Generation)
	return w != nil && w.State == StateReady
}

func (s *Slot) over() bool { return s.State == StateExited || s.State == StateFailed }

func (p *Pool) do(a Action) { p.actions = append(p.actions, a) }

// earliest returns the first of two times, a zero one being no time at all.
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
