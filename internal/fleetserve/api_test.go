package fleetserve

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// still is a fleet that does not change by itself.
func still() Config {
	source := newSynthetic(3, 2)
	source.still = true
	for i := range source.hosts {
		source.hosts[i].Connections = new(int64(1000 * (i + 1)))
	}
	return config(source)
}

func TestScale(t *testing.T) {
	t.Parallel()
	bubble(t, still, func(t *testing.T, s *server, source *synthetic) {
		const good = `{"app":"shop","hosts":3,"hosts_wanted":3,"connections":6000,"capacity":30000,"utilization":20,"reason":"6000 connections are 20 % of 30000, within 30 to 75 %"}`
		expect(t, s, "/v1/scale?app=shop", 200, good)
		expect(t, s, "/v1/scale", 200, good)
		expect(t, s, "/v1/scale?app=other", 404, `{"error":"no host reports an app \"other\""}`)
		pass(3)
		if source.remembered != 4 {
			t.Errorf("of 4 reads %d are remembered", source.remembered)
		}

		source.change(func() { source.err = errors.New("connection refused") })
		pass(1)
		expect(t, s, "/v1/scale?app=shop", 503, `{"error":"cannot read Redis: connection refused"}`)
		source.change(func() { source.err, source.apps = nil, []string{"mail", "shop"} })
		pass(6)
		expect(t, s, "/v1/scale?app=shop", 200, good)
		expect(t, s, "/v1/scale", 400, `{"error":"2 apps are reported: name one with ?app=APP"}`)
	})
}

// A Redis that does not answer at all is no fleet as it was.
func TestHungRedis(t *testing.T) {
	t.Parallel()
	bubble(t, still, func(t *testing.T, s *server, source *synthetic) {
		source.change(func() { source.hung = true })
		pass(1)
		expect(t, s, "/v1/scale?app=shop", 200, strings.TrimSpace(ask(s, http.MethodGet, "/v1/scale", "").Body.String()))
		pass(3)
		w := ask(s, http.MethodGet, "/v1/scale?app=shop", "")
		source.change(func() { source.hung = false })
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("%d: %s", w.Code, w.Body)
		}
	})
}

func TestFleet(t *testing.T) {
	t.Parallel()
	bubble(t, still, func(t *testing.T, s *server, source *synthetic) {
		for path, workers := range map[string]int{"/v1/fleet": 0, "/v1/fleet?app=shop": 0, "/v1/fleet?app=shop&workers=1": 2} {
			var fleets []fleet.Fleet
			w := ask(s, http.MethodGet, path, "")
			if err := json.Unmarshal(w.Body.Bytes(), &fleets); err != nil || w.Code != 200 {
				t.Fatalf("%s: %d, %v: %s", path, w.Code, err, w.Body)
			}
			if len(fleets) != 1 || len(fleets[0].Hosts) != 3 || len(fleets[0].Hosts[2].Workers) != workers || *fleets[0].Hosts[2].Connections != 3000 {
				t.Errorf("%s: %s", path, w.Body)
			}
		}
		source.change(func() { source.err = errors.New("LOADING") })
		pass(1)
		expect(t, s, "/v1/fleet", 503, `{"error":"cannot read shop in Redis: LOADING"}`)
		expect(t, s, "/v1/fleet?app=shop", 503, `{"error":"cannot read Redis: LOADING"}`)
	})
}

// given notes what it is given to write, not a copy.
type given struct {
	http.ResponseWriter

	parts [][]byte
}

func (g *given) Write(p []byte) (int, error) {
	g.parts = append(g.parts, p)
	return len(p), nil
}

// Lists may be megabytes, and clients may not read: all are written the same bytes.
func TestListsAreShared(t *testing.T) {
	t.Parallel()
	bubble(t, still, func(t *testing.T, s *server, _ *synthetic) {
		for _, path := range []string{"/v1/fleet", "/v1/fleet?workers=1", "/v1/sd"} {
			one, two := given{ResponseWriter: httptest.NewRecorder()}, given{ResponseWriter: httptest.NewRecorder()}
			for _, w := range []http.ResponseWriter{&one, &two} {
				r := httptest.NewRequest(http.MethodGet, path, nil)
				r.Host = "localhost"
				s.handler().ServeHTTP(w, r)
			}
			longest := func(a, b []byte) int { return len(a) - len(b) }
			a, b := slices.MaxFunc(one.parts, longest), slices.MaxFunc(two.parts, longest)
			if len(a) < 50 || &a[0] != &b[0] {
				t.Errorf("%s: each client has its own %d bytes", path, len(a))
			}
		}
	})
}

func TestTargets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		metrics   string
		addresses []string
		target    string
	}{
		{"10.0.0.7:9100", nil, "10.0.0.7:9100"},
		{"metrics.example:9100", nil, "metrics.example:9100"},
		{":9100", nil, "web-1:9100"},
		{"0.0.0.0:9100", []string{"tcp://:8080"}, "web-1:9100"},
		{"[::]:9100", []string{"tcp://0.0.0.0:8080", "http://localhost", "unix:///run/x", "http://10.0.0.9:8080"}, "10.0.0.9:9100"},
		{":9100", []string{"tcp://127.0.0.1:8080", "http://[fd00::7]/", "http://web"}, "[fd00::7]:9100"},
		{":9100", []string{"://", "%zz", "x"}, "web-1:9100"},
		{"127.0.0.1:9100", []string{"http://10.0.0.9"}, ""},
		{"[::1]:9100", nil, ""},
		{"localhost:9100", nil, ""},
		{"", []string{"http://10.0.0.9"}, ""},
		{"nonsense", nil, ""},
	} {
		if got := metricsTarget(&fleet.Host{ID: "web-1", Metrics: c.metrics, Addresses: c.addresses}); got != c.target {
			t.Errorf("%q, %q: %q, want %q", c.metrics, c.addresses, got, c.target)
		}
	}
	bubble(t, still, func(t *testing.T, s *server, source *synthetic) {
		source.host("web-2", func(h *fleet.Host) { h.Vanished = true })
		source.host("web-3", func(h *fleet.Host) { h.Metrics = "" })
		pass(1)
		expect(t, s, "/v1/sd", 200, `[{"targets":["web-1:9640"],"labels":{"__meta_forkd_app":"shop","host":"web-1"}}]`)
		expect(t, s, "/v1/sd?app=shop", 200, `[{"targets":["web-1:9640"],"labels":{"__meta_forkd_app":"shop","host":"web-1"}}]`)
		source.host("web-1", func(h *fleet.Host) { h.Metrics = "" })
		pass(1)
		expect(t, s, "/v1/sd", 200, `[]`)
	})
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	bubble(t, still, func(t *testing.T, s *server, source *synthetic) {
		source.host("web-1", func(h *fleet.Host) { h.State = control.StateDraining })
		source.host("web-2", func(h *fleet.Host) { h.Stale = true })
		source.host("web-3", func(h *fleet.Host) { h.Vanished = true })
		pass(1)
		const accept = "application/openmetrics-text;version=1.0.0"
		w := ask(s, http.MethodGet, "/metrics", "", "Accept", accept)
		want := `# HELP forkd_redis_up Whether the app can be read in Redis.
# TYPE forkd_redis_up gauge
forkd_redis_up{app="shop"} 1
# HELP forkd_fleet_hosts Hosts that report the app, by state.
# TYPE forkd_fleet_hosts gauge
forkd_fleet_hosts{app="shop",state="starting"} 0
forkd_fleet_hosts{app="shop",state="ready"} 0
forkd_fleet_hosts{app="shop",state="draining"} 1
forkd_fleet_hosts{app="shop",state="stopping"} 0
forkd_fleet_hosts{app="shop",state="stale"} 1
forkd_fleet_hosts{app="shop",state="vanished"} 1
forkd_fleet_hosts{app="shop",state="unknown"} 0
# HELP forkd_fleet_connections Open connections of all hosts whose figures are known.
# TYPE forkd_fleet_connections gauge
forkd_fleet_connections{app="shop"} 3000
# HELP forkd_fleet_capacity_connections Connections that the hosts that serve can hold.
# TYPE forkd_fleet_capacity_connections gauge
forkd_fleet_capacity_connections{app="shop"} 20000
# HELP forkd_fleet_utilization_ratio Connections as a share of that capacity, by which the fleet scales.
# TYPE forkd_fleet_utilization_ratio gauge
# UNIT forkd_fleet_utilization_ratio ratio
forkd_fleet_utilization_ratio{app="shop"} 0.15
# HELP forkd_fleet_hosts_wanted Hosts that the app should have.
# TYPE forkd_fleet_hosts_wanted gauge
forkd_fleet_hosts_wanted{app="shop"} 3
# EOF
`
		body := w.Body.String()
		if _, after, _ := strings.Cut(body, "\"} 1\n"); !strings.HasPrefix(body, "# HELP forkd_build ") || after != want || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/openmetrics-text") {
			t.Errorf("%s\nwant\n%s", body, want)
		}
		source.change(func() { source.err = errors.New("gone") })
		pass(1)
		body = ask(s, http.MethodGet, "/metrics", "").Body.String()
		if !strings.Contains(body, `forkd_redis_up{app="shop"} 0`) || strings.Contains(body, "forkd_fleet_connections{") {
			t.Errorf("without Redis:\n%s", body)
		}
	})
}

// Who calls the server by a name that is not its own was led here.
func TestHostHeader(t *testing.T) {
	t.Parallel()
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	bubble(t, func() Config {
		c := still()
		c.Names = []string{"Fleet.example"}
		return c
	}, func(t *testing.T, s *server, _ *synthetic) {
		for host, status := range map[string]int{
			"127.0.0.1:9640": 200, "[::1]:9640": 200, "10.1.2.3": 200, "localhost:9640": 200, "LOCALHOST.": 200, own: 200,
			"fleet.example:9640": 200, "FLEET.EXAMPLE": 200,
			"stranger.example:9640": 421, "localhost.stranger.example": 421, "127.0.0.1.stranger.example": 421, "": 421, "x@127.0.0.1": 421,
		} {
			for _, path := range []string{"/", "/v1/scale?app=shop", "/metrics"} {
				if w := ask(s, http.MethodGet, path, "", "Host", host); w.Code != status {
					t.Errorf("%q %s: %d, want %d", host, path, w.Code, status)
				}
			}
		}
	})
}

// The page is what the policy allows: files of its own, nothing between the tags.
func TestFiles(t *testing.T) {
	t.Parallel()
	bubble(t, still, func(t *testing.T, s *server, _ *synthetic) {
		for path, kind := range map[string]string{
			"/": "text/html", "/app.js": "text/javascript", "/hosts.js": "text/javascript", "/style.css": "text/css", "/icon.svg": "image/svg+xml",
		} {
			w := ask(s, http.MethodGet, path, "")
			policy := w.Header().Get("Content-Security-Policy")
			if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), kind) || !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
				t.Errorf("%s: %d, %v", path, w.Code, w.Header())
			}
			for _, bad := range []string{"https://", "http://", " style=", " onclick=", "<style", "<script>", "innerHTML", "eval("} {
				if strings.Contains(strings.ReplaceAll(w.Body.String(), "http://www.w3.org/2000/svg", ""), bad) {
					t.Errorf("%s has %q", path, bad)
				}
			}
		}
		for path, status := range map[string]int{"/nothing": 404, "/v1/none": 404} {
			if w := ask(s, http.MethodGet, path, ""); w.Code != status {
				t.Errorf("%s: %d", path, w.Code)
			}
		}
		if w := ask(s, http.MethodPost, "/v1/scale", ""); w.Code != 405 {
			t.Errorf("POST: %d", w.Code)
		}
	})
}
