package control

import (
	"slices"
	"time"
)

// App is one app as `forkd status --json` and GET /v1/status show it. Times are
// RFC 3339 with fractions, sizes bytes; a figure that is not known is nil, null
// in JSON, never 0. Fields are added, never renamed (docs/contract.md, Command line).
type App struct {
	Schema       int        `json:"schema"` // StatusSchema
	App          string     `json:"app"`
	PID          int        `json:"pid,omitzero"` // the master's
	Version      string     `json:"version"`
	StartedAt    time.Time  `json:"started_at,omitzero"`
	Generation   int        `json:"generation"`
	State        string     `json:"state"` // "starting", "ready", "draining", "stopping"; for clients "stopped": no master
	HostDraining bool       `json:"host_draining"`
	Config       string     `json:"config"` // the file; "" without one
	Listeners    []Listener `json:"listeners"`
	Roll         *Roll      `json:"roll"`          // null: none under way
	LastRoll     *Rolled    `json:"last_roll"`     // null: none has ended yet
	ReloadError  *Failure   `json:"reload_error"`  // null: the configuration was good when it was last read
	Fallback     *Fallback  `json:"fallback"`      // null: the app runs its present release
	DirectoryNow string     `json:"directory_now"` // where the configured directory leads now, while workers of another fail; "": they do not, or there
	FallsBack    bool       `json:"falls_back"`    // it starts, and the release that served last will run if nothing of the present one gets ready
	Redis        *Redis     `json:"redis"`         // null: not configured
	Slots        []Slot     `json:"slots"`
	Leftovers    []Leftover `json:"leftovers"` // processes in no worker's session
	Totals       Totals     `json:"totals"`
}

// StatusSchema is the number of docs/status.schema.json: another one when a field goes or
// means something else.
const StatusSchema = 1

// The states of an app. Only StateReady is healthy.
const (
	StateStarting = "starting"
	StateReady    = "ready"
	StateDraining = "draining"
	StateStopping = "stopping"
)

// Listener is one listener of an app.
type Listener struct {
	Name    string `json:"name"`
	Address string `json:"address"` // "tcp://:8080", with the port that it really has
	Mode    string `json:"mode"`
	Balance string `json:"balance"`
	Source  string `json:"source"` // "bound", "systemd"
}

// Failure is what went wrong at a time.
type Failure struct {
	At    time.Time `json:"at"`
	Error string    `json:"error"`
}

// Fallback is the release that served last, run because no worker of the present one became
// ready at the start.
type Fallback struct {
	At        time.Time `json:"at"`
	Directory string    `json:"directory"` // that runs
	Instead   string    `json:"instead"`   // the present release's
	Error     string    `json:"error"`     // why that does not run
}

// Roll is a change of generation under way.
type Roll struct {
	From   int    `json:"from"`
	To     int    `json:"to"`
	Phase  string `json:"phase"` // "preparing", "rolling", "monitoring", "checking", "rolling back"
	Done   int    `json:"done"`  // slots with a ready worker of generation To
	Of     int    `json:"of"`    // all slots
	Reason string `json:"reason"`
}

// Summary is the part of an App that is worth polling, at little cost.
type Summary struct {
	State       string `json:"state"`
	Generation  int    `json:"generation"`
	Wanted      int    `json:"wanted"`
	Ready       int    `json:"ready"`
	Roll        *Roll  `json:"roll"`        // null: none under way
	Connections *int64 `json:"connections"` // null: not known
	EventSeq    uint64 `json:"event_seq"`   // of the newest event
}

// Redis is how the report to Redis fares.
type Redis struct {
	State string    `json:"state"` // "connecting" until it is there for the first time, "up", "down"
	Since time.Time `json:"since"`
	Error string    `json:"error"` // "": all is well
	URL   string    `json:"url"`   // without the password
	Host  string    `json:"host"`  // what this host is called there
	Twin  bool      `json:"twin"`  // another master reports by the same host and app
}

// The states of the report to Redis.
const (
	RedisConnecting = "connecting"
	RedisUp         = "up"
	RedisDown       = "down"
)

// Slot is one place of an app, with the workers that fill it: a draining
// predecessor comes before its successor.
type Slot struct {
	Slot        int        `json:"slot"`
	State       string     `json:"state"` // of its newest worker; without one "backoff", "exited", "failed"
	Restarts    int        `json:"restarts"`
	NextStartAt *time.Time `json:"next_start_at"`
	Reason      string     `json:"reason"` // of backoff, exited and failed
	LastExit    *LastExit  `json:"last_exit"`
	Workers     []Worker   `json:"workers"`
	Leaving     bool       `json:"leaving"` // scaled away: it serves what it has, and goes
	Moved       *int64     `json:"moved"`   // connections that its workers have handed to another, those that are gone too
}

// LastExit is how a slot's last worker ended.
type LastExit struct {
	At     time.Time `json:"at"`
	Code   *int      `json:"code"`   // null: ended by Signal
	Signal string    `json:"signal"` // "SIGKILL"; "" when it exited
	Reason string    `json:"reason"`
}

// Worker is one live process of a slot. One that is still being started is not
// listed: it has no pid yet.
type Worker struct {
	PID               int        `json:"pid"`
	Generation        int        `json:"generation"`
	State             string     `json:"state"` // "starting", "ready", "draining"
	StartedAt         time.Time  `json:"started_at"`
	ReadyAt           *time.Time `json:"ready_at"`
	Counted           string     `json:"counted"` // who counts: "worker", "kernel", "sampled", "no"
	Connections       *int64     `json:"connections"`
	Accepted          *int64     `json:"accepted"`
	Requests          *int64     `json:"requests"`
	Refused           *int64     `json:"refused"`  // connections beyond its share
	MovedIn           *int64     `json:"moved_in"` // connections that it has taken over from another worker
	MovedOut          *int64     `json:"moved_out"`
	RequestsPerSecond *float64   `json:"requests_per_second"`
	Queue             *int64     `json:"queue"`       // of its slot's sockets
	CPUPercent        *float64   `json:"cpu_percent"` // of its session; 100 is one core
	Stopped           bool       `json:"stopped"`     // its leader, by SIGSTOP or the like: it serves nobody
	Stalled           bool       `json:"stalled"`     // connections wait for it, and it has accepted none for health.stall
	RSSBytes          *int64     `json:"rss_bytes"`   // the same; shared pages count in each process
}

// Leftover is a worker that a killed master has left, or the daemons that one
// worker, alive or dead, has started.
type Leftover struct {
	Slot      *int       `json:"slot"`  // null: not known
	PID       int        `json:"pid"`   // of the oldest
	State     string     `json:"state"` // "draining", or "running": its worker may live
	StartedAt *time.Time `json:"started_at"`
	KillAt    *time.Time `json:"kill_at"` // null: it is not killed
	Processes int        `json:"processes"`
	Reason    string     `json:"reason"` // how it came to be
}

// Description is everything about an app: GET /v1/describe. No value of the
// environment is in it.
type Description struct {
	App

	Release   Release      `json:"release"`
	Readiness string       `json:"readiness"` // how it is decided, in words
	Sockets   string       `json:"sockets"`   // how workers come to their listening sockets, in words
	Env       []string     `json:"env"`       // names that the configuration sets
	Settings  []Setting    `json:"settings"`
	History   []Exit       `json:"history"` // the oldest first
	Rolls     []RollRecord `json:"rolls"`   // the oldest first
	Messages  Messages     `json:"messages"`
}

// Release is what the app's generation runs.
type Release struct {
	Generation int      `json:"generation"`
	Directory  string   `json:"directory"`  // resolved
	Executable string   `json:"executable"` // resolved
	Command    []string `json:"command"`    // placeholders unreplaced
}

// Setting is one key of the configuration, and where it comes from.
type Setting struct {
	Key    string `json:"key"`    // "drain.timeout"
	Value  string `json:"value"`  // as a person would write it
	Source string `json:"source"` // "default", "/etc/forkd/shop.toml:12", "--workers"
}

// Exit is how a worker ended.
type Exit struct {
	Slot       int `json:"slot"`
	Generation int `json:"generation"`
	PID        int `json:"pid"`
	LastExit

	Crashed  bool     `json:"crashed"`   // it was not asked to end, and its status was not 0
	ReadyFor *float64 `json:"ready_for"` // seconds; null: it was never ready
	Output   []string `json:"output"`    // its last lines
}

// RollRecord is a roll that has ended.
type RollRecord struct {
	Generation int       `json:"generation"`
	Result     string    `json:"result"`
	Error      string    `json:"error"`
	Fault      string    `json:"fault"`        // as in Rolled
	By         string    `json:"by,omitempty"` // as in Event
	StartedAt  time.Time `json:"started_at"`
	EndedAt    time.Time `json:"ended_at"`
}

// Messages counts what went through the workers' channels.
type Messages struct {
	Sent    uint64 `json:"sent"`
	Dropped uint64 `json:"dropped"` // for workers that did not take them
}

// Totals sums up the live workers; see [Sum].
type Totals struct {
	Wanted            int      `json:"wanted"` // slots that are not leaving
	Ready             int      `json:"ready"`  // of these, those with a ready worker
	Restarts          int      `json:"restarts"`
	Connections       *int64   `json:"connections"`
	Accepted          *int64   `json:"accepted"`
	Requests          *int64   `json:"requests"`
	Refused           *int64   `json:"refused"`
	Moved             *int64   `json:"moved"` // the slots'
	RequestsPerSecond *float64 `json:"requests_per_second"`
	Queue             *int64   `json:"queue"` // each slot's once
	CPUPercent        *float64 `json:"cpu_percent"`
	RSSBytes          *int64   `json:"rss_bytes"`
}

// Sum makes the Totals of slots.
func Sum(slots []Slot) Totals {
	var t Totals
	var all, newest []Worker
	for _, s := range slots {
		all = append(all, s.Workers...)
		if n := len(s.Workers); n > 0 {
			newest = append(newest, s.Workers[n-1])
		}
		t.Restarts += s.Restarts
		if s.Moved != nil {
			if t.Moved == nil {
				t.Moved = new(int64)
			}
			*t.Moved += *s.Moved
		}
		if s.Leaving {
			continue
		}
		t.Wanted++
		if slices.ContainsFunc(s.Workers, func(w Worker) bool { return w.State == StateReady }) {
			t.Ready++
		}
	}
	t.Connections = Total(all, func(w *Worker) *int64 { return w.Connections })
	t.Accepted = Total(all, func(w *Worker) *int64 { return w.Accepted })
	t.Requests = Total(all, func(w *Worker) *int64 { return w.Requests })
	t.Refused = Total(all, func(w *Worker) *int64 { return w.Refused })
	t.RequestsPerSecond = Total(all, func(w *Worker) *float64 { return w.RequestsPerSecond })
	t.Queue = Total(newest, func(w *Worker) *int64 { return w.Queue })
	t.CPUPercent = Total(all, func(w *Worker) *float64 { return w.CPUPercent })
	t.RSSBytes = Total(all, func(w *Worker) *int64 { return w.RSSBytes })
	return t
}

// Total sums up a figure of the workers. It is nil if one of them does not know it,
// unless that one is starting: it serves nobody yet.
func Total[T int64 | float64](workers []Worker, figure func(*Worker) *T) *T {
	var sum T
	for i := range workers {
		switch part := figure(&workers[i]); {
		case part != nil:
			sum += *part
		case workers[i].State != StateStarting:
			return nil
		}
	}
	return &sum
}

// AllReady reports whether every slot that is wanted has a ready worker, in an
// app that is there to serve. A host that drains serves on.
func (a *App) AllReady() bool {
	serves := a.State == StateReady || a.State == StateDraining
	return serves && a.Totals.Ready == a.Totals.Wanted
}

// whole makes lists of what is nil: JSON has no null for them.
func (a App) whole() App {
	a.Schema = StatusSchema
	a.Listeners = append([]Listener{}, a.Listeners...)
	a.Slots = append([]Slot{}, a.Slots...)
	a.Leftovers = append([]Leftover{}, a.Leftovers...)
	return a
}
