package pool

import "time"

// An Event is something that has happened. An Event about a worker that the pool
// no longer knows changes nothing.
type Event interface{ event() }

//sumtype:decl

type (
	// Began is the first event: the sockets are bound, no worker runs yet. Fallback: there
	// is another release, which served before, to run if no worker becomes ready.
	Began struct{ Fallback bool }
	// Ticked says that the time returned by Next has come. Step checks every deadline
	// after every event.
	Ticked struct{}
	// Prepared says that a generation can run: its directory is resolved, its program
	// found, its listeners open. Slots is the number in its configuration.
	Prepared struct {
		Generation int
		Settings   Settings
		Slots      int
	}
	// PrepareFailed says why a generation can't run.
	PrepareFailed struct {
		Generation int
		Reason     string
	}
	// Started says that the worker's program runs.
	Started struct{ ID ID }
	// StartFailed says why the program could not be started. There is no process. Final:
	// trying again would not help. If no worker has ever run, the app ends then.
	StartFailed struct {
		ID     ID
		Reason string
		Final  bool
	}
	// HelloReceived says that the worker sent hello on its channel: it will report when
	// it is ready.
	HelloReceived struct{ ID ID }
	// Notified says that the worker has reported that it is ready.
	Notified struct{ ID ID }
	// Listened says that the worker has called listen(2) on one of its slot's sockets
	// (Seen.Listening). If the app had no listeners, this is the first of them. Elsewhere is
	// where it listens if that is none of the app's listeners: it is not ready for that.
	Listened struct {
		ID        ID
		Elsewhere string
	}
	// Accepting says that the worker has been seen to wait for connections on one of
	// its slot's sockets (Seen.Accepting).
	Accepting struct{ ID ID }
	// Idled says that the worker's processes are idle and it listens nowhere
	// (Seen.Learns).
	Idled struct{ ID ID }
	// Stalled says that connections wait for the worker and that it has accepted none
	// for health.stall.
	Stalled struct{ ID ID }
	// Accepted says that a stalled worker has accepted connections again.
	Accepted struct{ ID ID }
	// ReplaceRequested asks to replace one worker in its slot, by one of its own
	// generation. Abort: it gets SIGABRT in place of its stop signal. Answer: Replaced,
	// one for all requests for the same worker.
	ReplaceRequested struct {
		ID    ID
		Cause Cause
		Why   string
		Abort bool
	}
	// Exited says that the worker's leader has ended. Leftovers: other processes of
	// its group live; GroupEnded will follow.
	Exited struct {
		ID        ID
		Exit      Exit
		Leftovers bool
	}
	// GroupEnded says that the last process of a dead worker's group has ended.
	GroupEnded struct{ ID ID }
	// RollRequested asks for a new generation in every slot. With Reload, its
	// configuration is read again.
	RollRequested struct{ Reload bool }
	// ReleaseChecked answers CheckRelease. Lost says why the generation can't run
	// again as it was; "": it can.
	ReleaseChecked struct {
		Generation int
		Lost       string
	}
	// ScaleRequested asks for another number of slots, at least 1. Why names what asked.
	ScaleRequested struct {
		Slots int
		Why   string
	}
	// Emptied answers Leave: no connection waits in the slot's sockets any more.
	Emptied struct{ Slot, Turn int }
	// StandbyRequested asks to drain all workers and to start none until the next
	// roll.
	StandbyRequested struct{}
	// HostDrainRequested asks to advertise to balancers that this host drains, or no
	// longer does. The workers serve on.
	HostDrainRequested struct {
		Draining bool
		Why      string
	}
	// Inherited reports left-over processes outside of every worker's group. They come
	// from a killed master, whose death has signaled them, or, with Stop, from a dead
	// worker: then they are sent the stop signal. Their ID has generation 0. They are
	// killed at the deadline. GroupEnded reports their end.
	Inherited struct {
		ID       ID
		Deadline time.Time
		Stop     bool
	}
	// StopRequested asks to drain all workers; with Now, to kill them.
	StopRequested struct{ Now bool }
)

func (Began) event()              {}
func (Ticked) event()             {}
func (Prepared) event()           {}
func (PrepareFailed) event()      {}
func (Started) event()            {}
func (StartFailed) event()        {}
func (HelloReceived) event()      {}
func (Notified) event()           {}
func (Listened) event()           {}
func (Accepting) event()          {}
func (Idled) event()              {}
func (Stalled) event()            {}
func (Accepted) event()           {}
func (ReplaceRequested) event()   {}
func (Exited) event()             {}
func (GroupEnded) event()         {}
func (RollRequested) event()      {}
func (ReleaseChecked) event()     {}
func (ScaleRequested) event()     {}
func (Emptied) event()            {}
func (StandbyRequested) event()   {}
func (HostDrainRequested) event() {}
func (Inherited) event()          {}
func (StopRequested) event()      {}
