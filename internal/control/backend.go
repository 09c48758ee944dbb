// Package control is how people and programs talk to a running app: the control
// socket's paths and replies (docs/contract.md, Command line and Control socket), its server in the
// master, its client for the forkd command, and the runtime directory where the
// client finds the socket.
//
// The invariant it keeps: one live master per name and directory, by a lock that
// dies with the process; and no client, however slow, silent or many, blocks the
// master or makes its memory grow. It decides nothing about workers: requests go to
// a [Backend], answers come from it.
package control

import (
	"context"

	"github.com/forkd/forkd/internal/output"
)

// Backend is the app behind a control socket: the supervisor. Its methods are
// called from many goroutines at once; ctx ends when the client leaves or the
// server is closed. An *Error chooses the HTTP status, any other error is 503.
type Backend interface {
	Status(ctx context.Context) (App, error)
	// Figures is Status with the sums of /metrics.
	Figures(ctx context.Context) (Figures, error)
	// Summary must be cheap: it is polled.
	Summary(ctx context.Context) (Summary, error)
	Describe(ctx context.Context) (Description, error)
	// Events returns the events after a number that are still kept, the oldest
	// first; 0 is before all. It works until Serve has returned, so that "down"
	// reaches those who follow.
	Events(ctx context.Context, after uint64) (EventPage, error)
	// Logs returns the newest lines of the log that are kept in memory. It works until
	// Serve has returned.
	Logs(ctx context.Context, q output.Query) (Logs, error)
	// Reload starts a roll; with Wait it returns when that has ended, and a
	// roll that did not succeed, or a configuration that can't be used, is no
	// error but a Result.
	Reload(ctx context.Context, r Reload) (Rolled, error)
	// Scale returns when the number that is wanted has changed; see [Scale.Workers].
	Scale(ctx context.Context, s Scale) (Scaled, error)
	DrainHost(ctx context.Context, draining bool) error
	// Send hands a message to workers: an *Error, 404, says that there is no
	// such slot, 409 that no worker took it.
	Send(ctx context.Context, m Message) (Sent, error)
	// Execute runs a command of the fleet. A refusal is an *Error, 409, and an
	// event; a command that was executed before is not executed again: nil.
	Execute(ctx context.Context, c Command) error
	// Stop returns when the stop has begun.
	Stop(ctx context.Context, now bool) error
}

// Reload is the body of POST /v1/reload.
type Reload struct {
	KeepConfig bool `json:"keep_config"` // as SIGUSR2: roll, without reading the configuration again
	Wait       bool `json:"wait"`        // answer when the roll has ended; default true
	Slot       *int `json:"slot"`        // replace this slot's worker alone, by one of its generation; null: roll
}

// Rolled answers POST /v1/reload, and is the last roll in an App.
type Rolled struct {
	Generation int    `json:"generation"`
	Result     string `json:"result,omitempty"` // "done", "rolled_back", "paused", ...; "" when not waited for
	Error      string `json:"error,omitempty"`  // why it is not "done"
	Fault      string `json:"fault,omitempty"`  // what failed: "configuration", "program", "readiness"; "": nothing did
	Slot       *int   `json:"slot,omitempty"`   // where, of the last two
}

// The faults that a worker is to blame for, or not.
const (
	FaultConfiguration = "configuration"
	FaultReadiness     = "readiness"
)

// ResultDone is the Result of a roll that replaced every worker.
const ResultDone = "done"

// Stop is the body of POST /v1/stop.
type Stop struct {
	Now bool `json:"now"` // no draining: SIGKILL
}

// Error is a refusal in words. A Backend returns one to choose the HTTP status,
// a Client returns the one that the master answered with.
type Error struct {
	Code int    // HTTP status
	Text string // one line
}

func (e *Error) Error() string { return e.Text }
