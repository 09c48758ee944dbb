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
	// Obey carries out orders from Redis, one after the other. Its answers are
	// events whose reason begins with "command ID".
	Obey(ctx context.Context, orders []Command) error
}

// Glance is what is worth a beat ahead of its time when it changes.
type Glance struct {
	Connections int64
	Known       bool // Connections is
	State       string
	Ready       int
	Generation  int
}

// Command is an order by way of Redis.
type Command struct {
	ID        string // 1 to 64 of [A-Za-z0-9._-]
	Op        string
	Args      Args
	ExpiresAt time.Time // by Redis's clock
	Refused   string    // why it must not be carried out, only answered; "": it may
}

// Memory is what a reporter leaves to the next one of the same app, which reports
// by other settings.
type Memory struct {
	obeyed idSet
	acked  uint64 // the last event that is in the stream
	where  string // the URL and the host that this holds for
}

// Args are what an order needs to be carried out.
type Args struct {
	Workers string `json:"workers,omitempty"` // scale: "N", "+N", "-N", "cpus"
	Count   int    `json:"count,omitempty"`   // shed: so many connections, from 1
	Seconds int    `json:"seconds,omitempty"` // shed: spread over so many, from 1; 10 when it is left out
}

// The orders that there are.
const (
	OpScale  = "scale"
	OpRoll   = "roll"
	OpDrain  = "drain"
	OpResume = "resume"
	OpShed   = "shed"
)
