package control

// Figures is what /metrics shows: an app's status, and what has come together since the
// master started. No sum falls when a worker ends or its slot goes.
type Figures struct {
	App      App
	Capacity *int64 // connections that the host can hold; nil: not known
	Limit    *int64 // connections that its workers take at most, each its share; nil: any number
	Counts   Counts
	Slots    []SlotFigures
}

// Counts is how often what has happened since the master started: every kind is there.
type Counts struct {
	Restarts map[string]int64 // workers that were started in the place of others, but for rolls, by pool.Cause
	Rolls    map[string]int64 // that have ended: "done", "rolled_back", "paused", "failed", "canceled"
}

// SlotFigures is of one slot, which may be gone: then the figures of what is there are nil.
// One that is not known is nil.
type SlotFigures struct {
	Slot        int
	Connections *int64
	RSSBytes    *int64
	Queues      map[string]int // connections that wait to be accepted, by listener; of a socket for all slots: slot 0's

	// Sums over all workers that the slot has had.
	Accepted, Requests, Refused *int64
	CPUSeconds                  *float64
}
