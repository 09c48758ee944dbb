package pool

import "time"

// An Event is a fact: something that has happened. One that speaks of a worker
// the pool no longer knows changes nothing.
type Event interface{ event() }

//sumtype:decl

type (
	// Began is the first event: the sockets are bound, nothing runs yet.
	Began struct{}
	// Ticked says that the time given by Next has come. It carries nothing: Step
	// looks at every deadline after every event.
	Ticked struct{}
	// Prepared says that a generation can run: its directory is resolved, its
	// program is there, its listeners are open. Slots is how many its
	// configuration asks for.
	Prepared struct {
		Generation int
		Settings   Settings
		Slots      int
	}
	// PrepareFailed says that it can't, and why.
	PrepareFailed struct {
		Generation int
		Reason     string
	}
	// Started says that the worker's program runs.
	Started struct{ ID ID }
	// StartFailed says that there is no process, and why.
	StartFailed struct {
		ID     ID
		Reason string
	}
	// HelloReceived says that the worker said hello on its channel: it will say when it
	// is ready.
	HelloReceived struct{ ID ID }
	// Notified says that the worker called itself ready.
	Notified struct{ ID ID }
	// Exited says that the worker's first process has ended. Leftovers: others of
	// its process group live on; GroupEnded will follow.
	Exited struct {
		ID        ID
		Exit      Exit
		Leftovers bool
	}
	// GroupEnded says that nothing is left of a dead worker's process group.
	GroupEnded struct{ ID ID }
	// RollRequested asks for a new generation in every slot; with Reload, of the
	// configuration read anew.
	RollRequested struct{ Reload bool }
	// ReleaseChecked answers CheckRelease: Lost says why the generation can't run
	// again as it was, "" that it can.
	ReleaseChecked struct {
		Generation int
		Lost       string
	}
	// ScaleRequested asks for another number of slots, at least 1.
	ScaleRequested struct{ Slots int }
	// Emptied answers Leave: nothing waits in the slot's sockets any more.
	Emptied struct{ Slot, Turn int }
	// StandbyRequested asks all workers to drain, and none to follow until a roll
	// brings them back.
	StandbyRequested struct{}
	// HostDrainRequested asks to tell balancers that this host drains, or that it
	// no longer does. It changes nothing else.
	HostDrainRequested struct{ Draining bool }
	// Inherited tells of processes that are in no worker's group: a killed master
	// has left them, whose death has told them to end, or, where Stop is set, a dead
	// worker, and they are sent the stop signal. Their ID has generation 0. They are
	// killed at the deadline. GroupEnded tells of their end.
	Inherited struct {
		ID       ID
		Deadline time.Time
		Stop     bool
	}
	// StopRequested asks all workers to drain, or, with Now, kills them.
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
