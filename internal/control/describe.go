package control

import "time"

// Description is everything about an app: GET /v1/describe. No value of the
// environment is in it.
type Description struct {
	App

	Release   Release      `json:"release"`
	Readiness string       `json:"readiness"` // how it is decided, in words
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
	Slot       int       `json:"slot"`
	Generation int       `json:"generation"`
	PID        int       `json:"pid"`
	At         time.Time `json:"at"`
	Code       *int      `json:"code"`   // null: ended by Signal
	Signal     string    `json:"signal"` // "SIGKILL"; "" when it exited
	Reason     string    `json:"reason"`
	ReadyFor   *float64  `json:"ready_for"` // seconds; null: it was never ready
	Output     []string  `json:"output"`    // its last lines
}

// RollRecord is a roll that has ended.
type RollRecord struct {
	Generation int       `json:"generation"`
	Result     string    `json:"result"`
	Error      string    `json:"error"`
	StartedAt  time.Time `json:"started_at"`
	EndedAt    time.Time `json:"ended_at"`
}

// Messages counts what went through the workers' channels.
type Messages struct {
	Sent    uint64 `json:"sent"`
	Dropped uint64 `json:"dropped"` // for workers that did not take them
}
