package supervisor

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/systemd"
)

// A notifier sends to the service manager. It never blocks.
type notifier interface{ Tell(state string) }

// manager tells the service manager what changes (sd_notify(3)). It is the loop's.
type manager struct {
	notifier notifier
	alive    time.Duration // how often it wants to hear of us; 0: never

	told      string
	reloading bool
	stopping  bool
	failed    string // why the last reload failed, "" when it did not
}

// see sends what has changed: READY=1 once the app is up and after each reload,
// STOPPING=1 with how long that may take. A failed reload has no message but the
// status.
func (m *manager) see(v pool.View, stopTime time.Duration, notice string) {
	if reloading := v.Roll != nil && v.Roll.Reload; reloading && !m.reloading {
		m.notifier.Tell(systemd.Reloading())
	} else if m.reloading && !reloading {
		m.failed, m.told = "", ""
		if v.LastRoll.Result != pool.ResultDone {
			m.failed = v.LastRoll.String()
		}
	}
	m.reloading = v.Roll != nil && v.Roll.Reload

	state := m.status(v)
	if notice != "" && !v.Stopping {
		state += "; " + notice
	}
	// One line: a reason may quote a worker, and another line would be a message to the service manager.
	state = "STATUS=" + strings.Join(strings.FieldsFunc(state, unicode.IsControl), " ")
	switch {
	case v.Stopping:
		state = "STOPPING=1\n" + state
		if !m.stopping { // after STOPPING=1, which sets systemd's own limit
			m.stopping = true
			defer m.notifier.Tell(systemd.Extend(stopTime))
		}
	case v.Up && !m.reloading:
		state = "READY=1\n" + state
	}
	if state != m.told {
		m.told = state
		m.notifier.Tell(state)
	}
}

// status is the line that systemctl status shows.
func (m *manager) status(v pool.View) string {
	line := fmt.Sprintf("%d/%d workers ready, generation %d", v.Ready, v.Wanted, v.Generation)
	switch {
	case v.Roll != nil:
		return fmt.Sprintf("%s, %s to generation %d", line, v.Roll.Phase, v.Roll.To)
	case v.State == "ready" && v.Ready < v.Wanted:
		line = "degraded: " + line
	default:
		line = v.State + ": " + line
	}
	if v.Why != "" {
		line += "; " + v.Why
	}
	if m.failed != "" && !v.Stopping {
		line += "; the last reload failed, " + m.failed
	}
	return line
}
