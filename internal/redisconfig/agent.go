package redisconfig

import "time"

// Agent is what the master tells the fleet agent when it starts it, as a line of
// JSON on AgentChannel. The agent answers with lines of JSON: {"health": a
// control.Redis} whenever that has changed, and records of log/slog. The line
// AgentLeave asks it to take the host out of Redis and to end; at the end of the
// channel it ends at once.
type Agent struct {
	Settings  Settings
	App       string
	Boot      string // of the master's event log
	StartedAt time.Time
	Directory string // DIR of DIR/APP/control.sock
	Embedded  bool   // serve a small Redis on AgentListener, which is Settings.URL
}

// Descriptors of the fleet agent.
const (
	AgentChannel  = 3
	AgentListener = 4
)

// What the master and the agent say on the channel.
const (
	AgentLeave       = "leave"
	AgentLineMax     = 4 << 10         // bytes of a line from the agent
	AgentLeaveWithin = 2 * time.Second // the host is taken out of Redis, or not
)
