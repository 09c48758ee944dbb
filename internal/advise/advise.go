// Package advise decides how many hosts an app's fleet should have, which of them to
// take away, and which are too full. It is one pure function: [Policy.Advise] gets the
// time, what it remembered, and what the hosts report, and returns what to remember and
// the [Advice]. It must not know a clock, chance or Redis, and it does nothing itself.
//
// What it keeps: an out and an in are never within a cooldown of each other, a host whose
// figures are not known takes no part, and the number of hosts that is wanted falls only
// by an in.
package advise

import "time"

// The states of a [Host], as hosts report them.
const (
	StateStarting = "starting"
	StateReady    = "ready"
	StateDraining = "draining"
	StateStopping = "stopping"
)

// Host is what the advice knows of a host.
type Host struct {
	ID          string
	Boot        string // changes when forkd there is started anew
	State       string // one of the states; others take no part
	Connections *int64 // nil: not known, and the host takes no part
	Capacity    *int64 // nil: not known
	Stale       bool   // its figures are old: it takes no part
	Vanished    bool   // it is not there any more
}

// The values of Advice.Direction.
const (
	None = ""
	Out  = "out"
	In   = "in"
)

// Advice is what a fleet should be, why, and what to do next. What is to be done stays in
// it until the hosts' reports show that it is done. Lists are never null in JSON.
type Advice struct {
	Hosts       int      `json:"hosts"`        // that are there to serve: ready, and not on their way out
	HostsWanted int      `json:"hosts_wanted"` // that should be there
	Coming      int      `json:"coming"`       // that are starting, were asked for or are being resumed
	Add         int      `json:"add"`          // to be started now, beside those that are there or coming
	Connections int64    `json:"connections"`  // of all hosts that are there and known, those that drain too
	Capacity    *int64   `json:"capacity"`     // of the hosts that serve; null: not known
	Utilization *float64 `json:"utilization"`  // Connections in percent of Capacity; null: not known
	Direction   string   `json:"direction"`    // "out" or "in" as long as it is under way; "" none
	Reason      string   `json:"reason"`       // one line with the figures that it comes from; ids of hosts in it may hold anything

	Drain  []string `json:"drain"`  // hosts to drain, because they are to be removed
	Resume []string `json:"resume"` // draining hosts that are needed again
	Remove []string `json:"remove"` // drained hosts that are empty or overdue: to be taken away
	Shed   []Shed   `json:"shed"`   // connections to close on hosts that are too full: given once

	Unknown []string   `json:"unknown"` // hosts that are there and take no part, since their figures are not known
	Until   *time.Time `json:"until"`   // a cooldown that holds back an out or an in; null: none
}

// Shed is how many connections a host is to close, spread over some seconds.
type Shed struct {
	Host    string `json:"host"`
	Count   int    `json:"count"`
	Seconds int    `json:"seconds"`
}
