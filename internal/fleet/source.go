package fleet

import (
	"context"
	"time"

	"github.com/forkd/forkd/internal/control"
)

// App is whose report it is.
type App struct {
	Name      string    // [A-Za-z0-9][A-Za-z0-9._-]{0,47}
	Boot      string    // names this life of the master: letters and digits
	StartedAt time.Time // of the master
	Memory    *Memory   // what the app's last reporter knew, which has been closed; nil: nothing
}

// Source is the app that is reported. Its methods are called by the reporter's
// goroutine, one at a time.
type Source interface {
	// Glance is asked up to ten times a second: it must be cheap.
	Glance(ctx context.Context) (Glance, error)
	// Status is the whole, measured; asked at each beat.
	Status(ctx context.Context) (control.App, error)
	// Events returns what has happened after a number. It works after the app's end.
	Events(ctx context.Context, after uint64) (control.EventPage, error)
	// Execute runs a command from Redis. What comes of it are events with its id.
	Execute(ctx context.Context, c control.Command) error
}

// Glance is what is worth a beat ahead of its time when it changes.
type Glance struct {
	Connections int64
	Known       bool // Connections is
	State       string
	Ready       int
	Generation  int
}

// Command is a command for a host, by way of Redis.
type Command struct {
	control.Command

	ExpiresAt time.Time // by Redis's clock
}

// Memory is what a reporter leaves to the next one of the same app, which reports
// by other settings.
type Memory struct {
	acked uint64 // the last event that is in the stream
	where string // the URL and the host that this holds for
}
