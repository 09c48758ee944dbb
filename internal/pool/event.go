package pool

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
	// program is there.
	Prepared struct{ Generation int }
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
	// Greeted says that the worker said hello on its channel: it will say when it
	// is ready.
	Greeted struct{ ID ID }
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
	// RollRequested asks for a new generation in every slot.
	RollRequested struct{}
	// ReleaseChecked answers CheckRelease: Lost says why the generation can't run
	// again as it was, "" that it can.
	ReleaseChecked struct {
		Generation int
		Lost       string
	}
	// StopRequested asks all workers to drain, or, with Now, kills them.
	StopRequested struct{ Now bool }
)

func (Began) event()          {}
func (Ticked) event()         {}
func (Prepared) event()       {}
func (PrepareFailed) event()  {}
func (Started) event()        {}
func (StartFailed) event()    {}
func (Greeted) event()        {}
func (Notified) event()       {}
func (Exited) event()         {}
func (GroupEnded) event()     {}
func (RollRequested) event()  {}
func (ReleaseChecked) event() {}
func (StopRequested) event()  {}
