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
}

// Source is the app that is reported: its master, but for tests. Its methods are
// called by the reporter's goroutine, one at a time.
type Source interface {
	// Status is polled once or twice a second, and at each beat.
	Status(ctx context.Context) (control.App, error)
	// Events returns the events after a number. It works after the app's end.
	Events(ctx context.Context, after uint64) (control.EventPage, error)
	// Execute runs a command from Redis. What comes of it are events with its id.
	Execute(ctx context.Context, c control.Command) error
}

// snapshot is the part of a status that causes an early beat when it changes.
type snapshot struct {
	Connections int64
	Known       bool // Connections is
	State       string
	Ready       int
	Generation  int
}

func snapshotOf(a control.App) snapshot {
	s := snapshot{State: a.State, Ready: a.Totals.Ready, Generation: a.Generation}
	if n := a.Totals.Connections; n != nil {
		s.Connections, s.Known = *n, true
	}
	return s
}

// Command is a command for a host, by way of Redis.
type Command struct {
	control.Command

	ExpiresAt time.Time // by Redis's clock
}
