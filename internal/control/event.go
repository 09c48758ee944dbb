package control

import (
	"strconv"
	"strings"
	"time"
)

// Event is something that happened to an app.
type Event struct {
	Seq        uint64    `json:"seq"` // from 1, without gaps, in one life of the master
	Time       time.Time `json:"time"`
	Host       string    `json:"host"`
	Type       string    `json:"type"` // EventUp, ...
	Slot       *int      `json:"slot"` // null: of the whole app
	Generation *int      `json:"generation"`
	PID        *int      `json:"pid"`
	Reason     string    `json:"reason"`
	Command    string    `json:"command,omitempty"` // the id of the command that caused it
	By         string    `json:"by,omitempty"`      // who asked for it: "alice (pid 4711)", "SIGHUP"
	Moved      uint64    `json:"moved,omitempty"`   // connections that a worker which has ended had handed to another
}

// The types of events (docs/contract.md, Control socket).
const (
	EventUp              = "up"
	EventReady           = "ready"
	EventExited          = "exited"
	EventCrashed         = "crashed"
	EventBackoff         = "backoff"
	EventFailed          = "failed"
	EventRollStarted     = "roll_started"
	EventRollDone        = "roll_done"
	EventRolledBack      = "rolled_back"
	EventRollFailed      = "roll_failed"
	EventFellBack        = "fell_back" // no worker became ready at the start: the release that served last runs
	EventStalled         = "stalled"   // connections wait for a worker, and it takes none
	EventRecovered       = "recovered" // a stalled one takes them again
	EventOverloaded      = "overloaded"
	EventReplaced        = "replaced"
	EventReplaceFailed   = "replace_failed"
	EventScaled          = "scaled"
	EventDraining        = "draining"
	EventResumed         = "resumed"
	EventShed            = "shed"
	EventRefused         = "refused"   // a command was not executed
	EventLearned         = "learned"   // a listener, from a worker's listen(2)
	EventUnlearned       = "unlearned" // no worker listens there any more
	EventListeningAgain  = "listening_again"
	EventSocketSpoilt    = "socket_spoilt" // what a worker did to its socket cannot be undone
	EventPortShared      = "port_shared"   // somebody else's socket listens on a listener's port too
	EventPortUnshared    = "port_unshared"
	EventRuntimeLost     = "runtime_lost"     // files of the app's directory have been removed and can't be made again
	EventRuntimeRestored = "runtime_restored" // they are there again
	EventLeftover        = "leftover"
	EventTerminalClosed  = "terminal_closed" // the one that the master was started in
	EventDown            = "down"            // the last of an app's
)

// EventPage holds the events after a sequence number.
type EventPage struct {
	Boot   string          // names this life of the master: letters and digits
	Events []Event         // the oldest first
	Missed uint64          // how many are not kept any more
	More   <-chan struct{} // closed when there is another event
}

// position is how far a reader has come: the id of an event, "BOOT-SEQ".
type position struct {
	boot string
	seq  uint64
}

// parsePosition reads an id. One that is not valid is before everything.
func parsePosition(id string) position {
	dash := strings.LastIndexByte(id, '-')
	seq, err := strconv.ParseUint(id[dash+1:], 10, 64)
	if dash < 0 || err != nil {
		return position{}
	}
	return position{boot: id[:dash], seq: seq}
}

func (p position) String() string { return p.boot + "-" + strconv.FormatUint(p.seq, 10) }
