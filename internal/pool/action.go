package pool

import "time"

// An Action is an order to whoever performs: in the imperative, complete in
// itself. What comes of it comes back as an Event, where one is named.
type Action interface{ action() }

//sumtype:decl

type (
	// Prepare a generation: resolve its directory, find and keep its program, open
	// what it listens on. Its configuration is that of the generation From, or, with
	// Reload, read anew. Answer: Prepared or PrepareFailed.
	Prepare struct {
		Generation, From int
		Reload           bool
	}
	// CheckRelease asks whether a generation could still be started as it was.
	// Answer: ReleaseChecked.
	CheckRelease struct{ Generation int }
	// Forget a generation: nothing will be started from it again.
	Forget struct{ Generation int }
	// Start a worker on its slot's sockets, as one of so many. Answer: Started or
	// StartFailed, later Exited.
	Start struct {
		ID    ID
		Slots int
	}
	// Restore the slot's sockets to listening with their own backlog: a worker may
	// have changed that when it started, or ended. Vacant: the slot has no worker
	// left that its options could be meant for.
	Restore struct {
		Slot   int
		Vacant bool
	}
	// Retire asks a worker to drain: on its channel with the reason and the
	// deadline, and by its stop signal.
	Retire struct {
		ID       ID
		Reason   Reason
		Deadline time.Time
	}
	// StopGroup sends the stop signal to what a dead worker left behind.
	StopGroup struct{ ID ID }
	// Kill sends SIGKILL to the worker's whole process group.
	Kill struct{ ID ID }
	// Released a worker of which nothing lives any more: let go of all that was its.
	Released struct{ ID ID }
	// Steer new connections: Serving has for each slot the generation that serves
	// there, 0 where none is to get any. A group of sockets where none is wanted
	// keeps all.
	Steer struct{ Serving []int }
	// Leave tells that a slot is to go, and gets no new connections. Answer:
	// Emptied, with the same Turn, when no connection waits in its sockets, or
	// is half open.
	Leave struct{ Slot, Turn int }
	// CloseSlot closes the sockets of a slot that has ended for good or has left, so
	// that nobody waits in its queue. Start opens them again.
	CloseSlot struct{ Slot int }
	// CloseListeners gives up the master's hold of all sockets: the app stops, and new
	// clients are to be refused as soon as the workers close their own.
	CloseListeners struct{}
	// StateChanged tells of a worker or slot that entered a state. Attempt is 0 for a
	// slot; Exit is how a worker that is StateGone ended; Wait is how long a slot in
	// StateBackoff waits before it starts again.
	StateChanged struct {
		ID   ID
		From State
		To   State
		Why  string
		Exit Exit
		Wait time.Duration
	}
	// RollProgress tells how a roll goes, RollEnded how it went. Done counts the
	// slots that have a ready worker of the new generation.
	RollProgress struct {
		Phase    RollPhase
		Reload   bool // the configuration was read anew
		From, To int
		Done, Of int
		Why      string
	}
	// RollEnded is the last word on a generation's roll.
	RollEnded struct {
		Generation int
		Result     Result
		Why        string
	}
	// AppUp tells that the app is up: all slots ready, or some when ready.timeout
	// was over.
	AppUp struct{ Ready, Wanted int }
	// Scaled tells that another number of slots is wanted.
	Scaled struct {
		From, To int
		Why      string
	}
	// HostDrainChanged tells that the host drains, or no longer does.
	HostDrainChanged struct {
		Draining bool
		Why      string
	}
	// AppExited ends the master: nothing of the app is alive. Code is its exit code.
	AppExited struct {
		Code int
		Why  string
	}
)

func (Leave) action()            {}
func (AppUp) action()            {}
func (Scaled) action()           {}
func (HostDrainChanged) action() {}
func (Prepare) action()          {}
func (CheckRelease) action()     {}
func (Forget) action()           {}
func (Start) action()            {}
func (Restore) action()          {}
func (Retire) action()           {}
func (StopGroup) action()        {}
func (Kill) action()             {}
func (Released) action()         {}
func (Steer) action()            {}
func (CloseSlot) action()        {}
func (CloseListeners) action()   {}
func (StateChanged) action()     {}
func (RollProgress) action()     {}
func (RollEnded) action()        {}
func (AppExited) action()        {}

// String says how a roll ended, for people.
func (e RollEnded) String() string {
	switch {
	case e.Why == "":
		return string(e.Result)
	case e.Result == ResultRolledBack:
		return "rolled back: " + e.Why
	default:
		return string(e.Result) + ": " + e.Why
	}
}
