package pool

import "time"

// Settings is what the core needs to know of a configuration. The values are
// checked before they come here: counts at least 0, durations at least 0. Each
// generation has its own.
type Settings struct {
	Ready   Readiness
	Restart Restart
	Update  Update
	Drain   Drain
}

// ReadyMode is what makes a worker ready.
type ReadyMode int

// The modes of docs/contract.md, section 3, that are built.
const (
	ReadyAuto   ReadyMode = iota // notify from a worker that promised to, else delay
	ReadyNotify                  // READY=1, or ready on the channel
	ReadyDelay                   // alive for Ready.Delay
)

// Readiness says when a worker counts as ready.
type Readiness struct {
	Mode    ReadyMode
	Delay   time.Duration
	Timeout time.Duration
}

// Condition says which ends of a worker are followed by a new one.
type Condition int

// The conditions of Docker Swarm's restart policy.
const (
	RestartAny Condition = iota
	RestartOnFailure
	RestartNone
)

// Restart is the policy for workers that end by themselves.
type Restart struct {
	Condition   Condition
	Delay       time.Duration // before the second restart in a row; doubles
	MaxDelay    time.Duration
	MaxAttempts int           // restarts in a row before the slot gives up; 0: never
	Window      time.Duration // ready this long, then gone: counts as a first failure
	CleanResets bool          // an end with status 0 is no failure in a row
	Prevent     []int         // exit codes, 0..255, after which the slot is not started again
}

// Order is which of two generations goes first in a slot.
type Order int

// The orders of Docker Swarm's update policy.
const (
	StartFirst Order = iota
	StopFirst
)

// FailureAction is what a failed roll does next.
type FailureAction int

// Rollback returns the slots already rolled to what they ran before; Pause
// leaves every slot as it is.
const (
	Rollback FailureAction = iota
	Pause
)

// Update is how a roll goes.
type Update struct {
	Parallelism   int // slots at a time; 0: all
	Delay         time.Duration
	Order         Order
	Monitor       time.Duration
	FailureAction FailureAction
}

// Drain bounds a drain. Delay is how long the host is said to drain before a
// stop begins.
type Drain struct {
	Timeout time.Duration
	Delay   time.Duration
}

// steerAfter is how long a slot may be without a ready worker before new
// connections are steered away from it (docs/contract.md, section 2).
const steerAfter = 100 * time.Millisecond

// maxDraining is how many draining generations live side by side; a third cuts
// the oldest (docs/contract.md, section 6). A roll that would bring the third
// gives the oldest drainPatience to end by itself: clients that were only silent
// for a while then lose nothing.
const (
	maxDraining   = 2
	drainPatience = 5 * time.Second
)
