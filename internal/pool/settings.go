package pool

import "time"

// Settings is the core's part of a configuration. The values have been checked:
// counts and durations are at least 0. Each generation has its own.
type Settings struct {
	Ready   Readiness
	Restart Restart
	Update  Update
	Drain   Drain
}

// ReadyMode is what makes a worker ready.
type ReadyMode int

// The modes (docs/contract.md, section 3).
const (
	ReadyAuto   ReadyMode = iota // notify for a worker that is expected to, else delay
	ReadyNotify                  // READY=1, or ready on the channel
	ReadyDelay                   // alive for Ready.Delay
)

// Readiness says when a worker is ready.
type Readiness struct {
	Mode    ReadyMode
	Delay   time.Duration
	Timeout time.Duration
}

// Condition says after which exits a worker is restarted.
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
	MaxAttempts int           // restarts in a row before the slot fails; 0: no limit
	Window      time.Duration // an exit after being ready this long is a first failure
	CleanResets bool          // an end with status 0 is no failure in a row
	Prevent     []int         // exit codes, 0..255, after which the slot is not started again
}

// Order says whether the successor starts before its predecessor stops.
type Order int

// The orders of Docker Swarm's update policy.
const (
	StartFirst Order = iota
	StopFirst
)

// FailureAction says what follows a failed roll.
type FailureAction int

// Rollback returns the rolled slots to their previous generation; Pause leaves every
// slot as it is.
const (
	Rollback FailureAction = iota
	Pause
)

// Update is the policy for rolls.
type Update struct {
	Parallelism   int // slots at a time; 0: all
	Delay         time.Duration
	Order         Order
	Monitor       time.Duration
	FailureAction FailureAction
}

// Drain bounds a drain. Delay is how long the host is advertised as draining before
// a stop.
type Drain struct {
	Timeout time.Duration
	Delay   time.Duration
}

// steerAfter is how long a slot may be without a ready worker before new
// connections are steered away from it (docs/contract.md, section 2).
const steerAfter = 100 * time.Millisecond

// maxDraining is the most draining generations at a time; another kills the oldest
// (docs/contract.md, section 6). A roll that would exceed it first waits up to
// drainWait for the oldest to end by itself.
const (
	maxDraining = 2
	drainWait   = 5 * time.Second
)
