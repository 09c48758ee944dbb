package pool

import "time"

// Settings is the core's part of a configuration. supervisor.Config has these types
// and internal/config fills them. The values have been checked: counts and durations
// are at least 0. Each generation has its own.
type Settings struct {
	Ready   Ready
	Restart Restart
	Update  Update
	Drain   Drain
	Health  Health
	Seen    Seen
}

// Defaults are the settings of an empty configuration file.
func Defaults() Settings {
	return Settings{
		Ready: Ready{Mode: ReadyAuto, Delay: time.Second, Timeout: 30 * time.Second},
		Restart: Restart{
			Condition:   RestartAny,
			Delay:       100 * time.Millisecond,
			MaxDelay:    30 * time.Second,
			Window:      5 * time.Second,
			CleanResets: true,
		},
		Update: Update{Parallelism: 1, Order: StartFirst, Monitor: 5 * time.Second, FailureAction: Rollback, Fallback: true},
		Drain:  Drain{Timeout: 30 * time.Second, Idle: time.Second, Handoff: true},
		Health: Health{Stall: 10 * time.Second},
	}
}

// ReadyMode is what makes a worker ready. Its values are the configuration's words,
// as are those of Condition, Order and FailureAction.
type ReadyMode string

// The modes (docs/contract.md, What a worker is given).
const (
	ReadyAuto      ReadyMode = "auto"      // every signal that the worker is expected to give
	ReadyListening ReadyMode = "listening" // listen(2) on one of its sockets, by capture
	ReadyAccepting ReadyMode = "accepting" // seen to wait for connections
	ReadyNotify    ReadyMode = "notify"    // READY=1, or ready on the channel
	ReadyDelay     ReadyMode = "delay"     // alive for Ready.Delay
)

// Ready says when a worker is ready.
type Ready struct {
	Mode    ReadyMode
	Delay   time.Duration
	Timeout time.Duration
}

// Condition says after which exits a worker is restarted.
type Condition string

// The conditions of Docker Swarm's restart policy.
const (
	RestartAny       Condition = "any"
	RestartOnFailure Condition = "on-failure"
	RestartNone      Condition = "none"
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
type Order string

// The orders of Docker Swarm's update policy.
const (
	StartFirst Order = "start-first"
	StopFirst  Order = "stop-first"
)

// FailureAction says what follows a failed roll.
type FailureAction string

// Rollback returns the rolled slots to their previous generation; Pause leaves every
// slot as it is.
const (
	Rollback FailureAction = "rollback"
	Pause    FailureAction = "pause"
)

// Update is the policy for rolls.
type Update struct {
	Parallelism   int // slots at a time; 0: all
	Delay         time.Duration
	Order         Order
	Monitor       time.Duration
	FailureAction FailureAction
	Fallback      bool // a start that finds no worker ready runs the last release that served
}

// Drain bounds how long a worker may take to finish.
type Drain struct {
	Timeout       time.Duration
	Delay         time.Duration // at a stop: how long the host reports draining before the workers drain
	Idle          time.Duration // after which a draining worker closes idle connections
	ShedPerSecond int           // long-lived connections that a draining worker is asked to close each second; 0: none
	Handoff       bool          // idle connections are handed to the successor
}

// Health says when a worker that runs is ill.
type Health struct {
	Stall    time.Duration // its queue holds connections and it has accepted none for so long; 0: never
	Abort    bool          // SIGABRT for a trace, instead of the stop signal, where one is replaced
	Watchdog time.Duration // no WATCHDOG=1 or pulse for so long; 0: never
}

// Seen says what can be seen of a generation's workers, for ReadyAuto.
type Seen struct {
	Listeners bool // the app has listeners that were declared, or learned before
	Learns    bool // it has none yet, and its workers' listen(2) would be seen
	Listening bool // listen(2) can be seen (capture)
	Accepting bool // whether a process waits for connections can be seen
	Notifies  bool // the preset says that the program sends READY=1
}

// exitUsage is the exit code of a command that can't be executed (docs/contract.md,
// Command line).
const exitUsage = 2

// steerAfter is how long a slot may be without a ready worker before new
// connections are steered away from it (docs/contract.md, Data path).
const steerAfter = 100 * time.Millisecond

// maxDraining is the most draining generations at a time; another kills the oldest
// (docs/contract.md, Signals to the master). A roll that would exceed it first waits up to
// drainWait for the oldest to end by itself.
const (
	maxDraining = 2
	drainWait   = 5 * time.Second
)
