package advise

import "time"

// Memory is what must outlive the one who advises. It is JSON in Redis: it is not taken on
// trust. The zero Memory knows no past, and nothing holds it back.
type Memory struct {
	Began  time.Time            `json:"began,omitzero"`   // when the watch of this fleet began: no in within a cooldown of it
	At     time.Time            `json:"at,omitzero"`      // of the last advice
	Wanted int                  `json:"wanted,omitempty"` // hosts; 0: not known yet
	Out    time.Time            `json:"out,omitzero"`     // the last out
	In     time.Time            `json:"in,omitzero"`      // the last in
	Waits  time.Time            `json:"waits,omitzero"`   // since when an out waits for hosts that are coming
	Differ time.Time            `json:"differ,omitzero"`  // since when another number of hosts is there than is wanted
	Orders map[string]Order     `json:"orders,omitempty"` // by the host's id
	Sheds  map[string]time.Time `json:"sheds,omitempty"`  // by the host's id: what it sheds has come back elsewhere by then
	Told   Told                 `json:"told,omitzero"`
}

// Order is what a host was last asked to do for the fleet's sake, until it is done: a host
// that drains is done when it is gone, one that resumes when it is ready.
type Order struct {
	Boot   string    `json:"boot,omitempty"`
	Resume bool      `json:"resume,omitempty"` // else drain
	Since  time.Time `json:"since"`
}

// Told is what the one who starts and removes hosts was last told with success.
type Told struct {
	Key    string    `json:"key,omitempty"`    // of the advice
	Wanted int       `json:"wanted,omitempty"` // hosts
	At     time.Time `json:"at,omitzero"`
}

// Start returns the Memory of one who begins to watch a fleet: an in waits for a cooldown.
func Start(now time.Time) Memory { return Memory{Began: now} }
