package fleetserve

import (
	"net/http"
	"strings"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/openmetrics"
)

// metrics answers GET /metrics. Of an app that can't be read in Redis there is only
// forkd_redis_up 0: old figures would look like those of now.
func (s *server) metrics(w http.ResponseWriter, r *http.Request) {
	list := s.watches.first(r.Context())
	m := openmetrics.Writer{Format: openmetrics.Negotiate(strings.Join(r.Header.Values("Accept"), ","))}
	m.Family("forkd_build", openmetrics.Info, "The forkd that answers.")
	m.Sample(1, "version", control.Version())
	m.Family("forkd_redis_up", openmetrics.Gauge, "Whether the app can be read in Redis.")
	var good []*state
	for _, name := range list.names {
		now, up := list.watches[name].first(r.Context()), 0.0
		if now.problem(s.limits) == nil {
			good, up = append(good, now), 1
		}
		m.Sample(up, "app", name)
	}
	m.Family("forkd_fleet_hosts", openmetrics.Gauge, "Hosts that report the app, by state.")
	for _, now := range good {
		counts := hostStates(now.fleet.Hosts)
		for _, state := range []string{control.StateStarting, control.StateReady, control.StateDraining, control.StateStopping, fleet.StateStale, fleet.StateVanished, stateUnknown} {
			m.Sample(float64(counts[state]), "app", now.app, "state", state)
		}
	}
	for _, family := range []struct {
		name, help string
		value      func(*state) *float64
	}{
		{"forkd_fleet_connections", "Open connections of all hosts whose figures are known.", func(s *state) *float64 {
			if s.fleet.Totals.Connections == nil && s.advice.Connections == 0 {
				return nil
			}
			return new(float64(s.advice.Connections))
		}},
		{"forkd_fleet_capacity_connections", "Connections that the hosts that serve can hold.", func(s *state) *float64 {
			if s.advice.Capacity == nil {
				return nil
			}
			return new(float64(*s.advice.Capacity))
		}},
		{"forkd_fleet_utilization_ratio", "Connections as a share of that capacity, by which the fleet scales.", func(s *state) *float64 {
			if s.advice.Utilization == nil {
				return nil
			}
			return new(*s.advice.Utilization / 100)
		}},
		{"forkd_fleet_hosts_wanted", "Hosts that the app should have.", func(s *state) *float64 { return new(float64(s.advice.HostsWanted)) }},
	} {
		m.Family(family.name, openmetrics.Gauge, family.help)
		for _, now := range good {
			if value := family.value(now); value != nil {
				m.Sample(*value, "app", now.app)
			}
		}
	}
	w.Header().Set("Content-Type", m.Format.ContentType())
	_, _ = w.Write(m.Bytes())
}

const stateUnknown = "unknown"

// hostStates counts hosts by their states; each is in one.
func hostStates(hosts []fleet.Host) map[string]int {
	counts := map[string]int{}
	for i := range hosts {
		h := &hosts[i]
		state := h.Shown()
		if state == "" || h.Problem != "" && state == h.State {
			state = stateUnknown
		}
		counts[state]++
	}
	return counts
}
