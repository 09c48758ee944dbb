package pool

import "time"

// An Action says what the executor is to do, or reports a change. Where an answer
// is named, the executor sends it as an Event.
type Action interface{ action() }

//sumtype:decl

type (
	// Prepare a generation: resolve its directory, find its program and keep it open,
	// open its listeners. Its configuration is that of the generation From; with
	// Reload it is read again, with Fallback it is that of the release that served last.
	// Answer: Prepared or PrepareFailed.
	Prepare struct {
		Generation, From int
		Reload, Fallback bool
	}
	// CheckRelease asks whether a generation can still be started as it was.
	// Answer: ReleaseChecked.
	CheckRelease struct{ Generation int }
	// Forget a generation: no worker of it will be started again.
	Forget struct{ Generation int }
	// Start a worker on its slot's sockets; the app has Slots slots. Answer: Started
	// or StartFailed, later Exited.
	Start struct {
		ID    ID
		Slots int
	}
	// Restore the slot's sockets: listen again with the configured backlog, which a
	// worker may have changed. Vacant: the slot has no worker left, so socket options
	// may be reset too.
	Restore struct {
		Slot   int
		Vacant bool
	}
	// Retire asks a worker to drain: by a message on its channel, with the reason and
	// the deadline, and by its stop signal; with Abort by SIGABRT in its place.
	Retire struct {
		ID       ID
		Reason   Reason
		Deadline time.Time
		Abort    bool
	}
	// StopGroup sends the stop signal to the left-over processes of a dead worker.
	StopGroup struct{ ID ID }
	// Kill sends SIGKILL to the worker's whole process group.
	Kill struct{ ID ID }
	// Released reports that no process of a worker lives any more: free what the
	// master holds for it.
	Released struct{ ID ID }
	// Steer new connections. Serving has the serving generation of each slot, 0 for a
	// slot that gets none. A group of sockets whose slots all have 0 keeps them all.
	Steer struct{ Serving []int }
	// Leave reports that a slot is about to be removed and gets no new connections.
	// Answer: Emptied with the same Turn, when its sockets have no queued and no
	// half-open connection.
	Leave struct{ Slot, Turn int }
	// CloseSlot closes the sockets of a slot that has failed, exited or left, so that
	// no client waits in its queue. Start opens them again.
	CloseSlot struct{ Slot int }
	// CloseListeners closes the master's copies of all sockets: the app stops, and
	// new clients are refused as soon as the workers have closed theirs.
	CloseListeners struct{}
	// StateChanged reports that a worker or a slot entered a state. Attempt is 0 for a
	// slot. Exit is set for StateGone. Wait, for StateBackoff, is the time until the
	// next start.
	StateChanged struct {
		ID   ID
		From State
		To   State
		Why  string
		Exit Exit
		Wait time.Duration
	}
	// Restarted reports that another worker will be started in the place of one that has
	// ended by itself, or was not ready in time.
	Restarted struct {
		ID    ID
		Cause Cause
	}
	// WorkerStalled reports that a ready worker has stalled, or takes connections again.
	WorkerStalled struct {
		ID      ID
		Stalled bool
		Why     string
	}
	// Overloaded reports that so many of the workers have stalled at the same time that
	// it is not for a fault of theirs. None is steered round or replaced for it until
	// fewer are.
	Overloaded struct{ Stalled, Of int }
	// Replaced answers ReplaceRequested, and reports a replacement of a stalled worker.
	// Err says why the worker has not been replaced; "": it has. Fault is that of its
	// successor; "" where that has not failed.
	Replaced struct {
		ID       ID
		Cause    Cause
		Why, Err string
		Fault    Fault
	}
	// RollProgress reports the progress of a roll. Done counts the slots that have a
	// ready worker of the new generation.
	RollProgress struct {
		Phase    RollPhase
		Reload   bool // the configuration was read again
		From, To int
		Done, Of int
		Why      string
	}
	// RollEnded reports the result of the roll to a generation.
	RollEnded struct {
		Generation int
		Result     Result
		Why        string
		Fault      Fault // "" where nothing has failed
		Slot       int   // whose worker has failed, with FaultProgram and FaultReadiness
	}
	// FellBack reports that the app goes on with the release that served last, as no worker
	// of the present one became ready, and Why; with Err, why it can't.
	FellBack struct {
		From, To int
		Why, Err string
	}
	// AppUp reports that the app is up: all slots are ready, or some were when
	// ready.timeout was over.
	AppUp struct{ Ready, Wanted int }
	// Scaled reports that another number of slots is wanted.
	Scaled struct {
		From, To int
		Why      string
	}
	// HostDrainChanged reports that the host drains, or no longer does.
	HostDrainChanged struct {
		Draining bool
		Why      string
	}
	// AppExited ends the master: no process of the app is alive. Code is the master's
	// exit code: 0, 1, or 2 if the command can't be executed (docs/contract.md, Command line).
	AppExited struct {
		Code int
		Why  string
	}
)

func (Leave) action()            {}
func (FellBack) action()         {}
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
func (Restarted) action()        {}
func (WorkerStalled) action()    {}
func (Overloaded) action()       {}
func (Replaced) action()         {}
func (RollProgress) action()     {}
func (RollEnded) action()        {}
func (AppExited) action()        {}

// String is the result and its reason in words.
func (e RollEnded) String() string {
	switch {
	case e.Why == "":
		return string(e.Result)
	case e.Fault == FaultConfiguration:
		return "refused: " + e.Why
	case e.Result == ResultRolledBack:
		return "rolled back: " + e.Why
	default:
		return string(e.Result) + ": " + e.Why
	}
}
