package fleetserve

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// lists returns the fleet as JSON, with or without workers; each is encoded once, when
// it is asked for.
func (s *state) lists() func(workers bool) []byte {
	encode := func(workers bool) func() []byte {
		return sync.OnceValue(func() []byte {
			f := s.fleet
			if !workers {
				f.Hosts = make([]fleet.Host, len(s.fleet.Hosts))
				for i, h := range s.fleet.Hosts {
					h.Workers = nil
					f.Hosts[i] = h
				}
			}
			return control.MustMarshal(f)
		})
	}
	with, without := encode(true), encode(false)
	return func(workers bool) []byte {
		if workers {
			return with()
		}
		return without()
	}
}

// fleet answers GET /v1/fleet: a list of the apps with their hosts, or of the one that
// ?app= names; with ?workers=1 each host has its workers. It has the shape of `forkd
// fleet status --json`.
func (s *server) fleet(w http.ResponseWriter, r *http.Request) {
	states, ok := s.statesOf(w, r)
	if !ok {
		return
	}
	workers := r.URL.Query().Get("workers") == "1"
	answerList(w, states, func(now *state) []byte { return now.list(workers) })
}

// statesOf are the newest states of the app in ?app=, or of all apps. If one can't be read it
// has answered.
func (s *server) statesOf(w http.ResponseWriter, r *http.Request) (states []*state, ok bool) {
	if r.URL.Query().Has("app") {
		now := s.stateOf(w, r)
		return []*state{now}, now != nil
	}
	list := s.watches.first(r.Context())
	what, err := "Redis", list.err
	for i := 0; err == nil && i < len(list.names); i++ {
		now := list.watches[list.names[i]].first(r.Context())
		what, err = list.names[i]+" in Redis", now.problem(s.limits)
		states = append(states, now)
	}
	if err != nil {
		fail(w, http.StatusServiceUnavailable, "cannot read %s: %v", what, err)
	}
	return states, err == nil
}

// scale answers GET /v1/scale for autoscalers: how many hosts an app has, and how many
// it should have.
func (s *server) scale(w http.ResponseWriter, r *http.Request) {
	now := s.stateOf(w, r)
	if now == nil {
		return
	}
	a := &now.advice
	answer(w, http.StatusOK, struct {
		App         string   `json:"app"`
		Hosts       int      `json:"hosts"`
		HostsWanted int      `json:"hosts_wanted"`
		Connections int64    `json:"connections"`
		Capacity    *int64   `json:"capacity"`
		Utilization *float64 `json:"utilization"`
		Reason      string   `json:"reason"`
	}{now.app, a.Hosts, a.HostsWanted, a.Connections, a.Capacity, a.Utilization, a.Reason})
}

// targetGroup is an entry of Prometheus's HTTP service discovery (http_sd_config).
type targetGroup struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// targets answers GET /v1/sd: the addresses at which the hosts' masters answer
// /metrics, of all apps or of that in ?app=. The app is a label for relabeling alone, as
// the figures there have it.
func (s *server) targets(w http.ResponseWriter, r *http.Request) {
	states, ok := s.statesOf(w, r) // if not, Prometheus keeps the targets that it has
	if !ok {
		return
	}
	answerList(w, states, func(now *state) []byte { return now.targets() })
}

// groups returns the elements of /v1/sd, with commas between; they are encoded once, when
// they are asked for.
func (s *state) groups() func() []byte {
	return sync.OnceValue(func() []byte {
		groups := []targetGroup{}
		for i := range s.fleet.Hosts {
			h := &s.fleet.Hosts[i]
			if target := metricsTarget(h); target != "" && !h.Vanished {
				groups = append(groups, targetGroup{[]string{target}, map[string]string{"__meta_forkd_app": s.app, "host": h.ID}})
			}
		}
		text := control.MustMarshal(groups)
		return text[1 : len(text)-1]
	})
}

// metricsTarget is where others reach the metrics of a host; "" if nowhere. Where its
// master listens on all addresses that is one of the addresses that the host reports,
// else its id, which is the host's name by default.
func metricsTarget(h *fleet.Host) string {
	host, port, err := net.SplitHostPort(h.Metrics)
	if err != nil {
		return ""
	}
	ip, notIP := netip.ParseAddr(host)
	switch {
	case host != "" && (notIP != nil || !ip.IsUnspecified()):
		if !reachable(host) {
			return ""
		}
		return h.Metrics
	}
	for _, address := range h.Addresses {
		if at, err := url.Parse(address); err == nil && reachable(at.Hostname()) {
			return net.JoinHostPort(at.Hostname(), port)
		}
	}
	return net.JoinHostPort(h.ID, port)
}

// reachable reports whether a name or an address may lead others to a host.
func reachable(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host != "" && host != "localhost" && (err != nil || !ip.IsUnspecified() && !ip.IsLoopback())
}

// host answers GET /host, for the page: one host with its workers and its history.
func (s *server) host(w http.ResponseWriter, r *http.Request) {
	now := s.stateOf(w, r)
	if now == nil {
		return
	}
	id := r.URL.Query().Get("host")
	h, ok := now.host(id)
	if !ok {
		fail(w, http.StatusNotFound, "no host %.80q reports %s", id, now.app)
		return
	}
	answer(w, http.StatusOK, struct {
		Host    *fleet.Host `json:"host"`
		History history     `json:"history"`
	}{h, history{Every: now.history.Every, Connections: now.hosts[id]}})
}

// answerList answers with a JSON list of what there is of each state: some elements, or
// none. They may be megabytes, and a client may take them slowly or not at all, so they are
// written as they are: there is no copy for each client.
func answerList(w http.ResponseWriter, states []*state, of func(*state) []byte) {
	w.Header().Set("Content-Type", "application/json")
	before := []byte("[")
	for _, now := range states {
		text := of(now)
		if len(text) == 0 {
			continue
		}
		_, _ = w.Write(before) // a client that does not take it has left
		_, _ = w.Write(text)
		before = []byte(",")
	}
	end := "]\n"
	if before[0] == '[' {
		end = "[]\n"
	}
	_, _ = io.WriteString(w, end)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(control.MustMarshal(v), '\n')) // a client that does not take it has left
}

func fail(w http.ResponseWriter, status int, format string, args ...any) {
	answer(w, status, map[string]string{"error": fmt.Sprintf(format, args...)})
}
