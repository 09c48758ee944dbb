// Package fleetserve is the web server of `forkd fleet serve`: the live page of the
// fleet, and the figures of its apps for autoscalers and for Prometheus.
//
// One goroutine for each app, its watch, reads Redis every two seconds and publishes
// what it has found as a [state], which never changes. Whatever is asked is answered
// from the newest state: no request, however many there are, makes one to Redis, but
// for a command that is sent. All viewers of the page are written the same bytes.
//
// What comes from Redis and from the network is not trusted. The page is read-only
// unless there is a token.
package fleetserve

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/netutil"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/fleet"
)

// Source is where the figures of the fleet come from, a [*fleet.Reader]. It is safe for
// concurrent use.
type Source interface {
	Apps(ctx context.Context) ([]string, error)
	Scale(ctx context.Context, app string, p advise.Policy, m *advise.Memory) (fleet.Fleet, advise.Advice, error)
	Events(ctx context.Context, app, after string, follow bool, each func(fleet.Entry) error) error
	Send(ctx context.Context, app, host string, c fleet.Command) error
}

// Config is what a server is told.
type Config struct {
	Source Source
	Policy advise.Policy
	Apps   []string // none: those that are reported, at most 32
	Names  []string // by which it may be called, besides addresses, localhost and the host's name
	Token  string   // that commands must carry; "": the server is read-only
	Log    *slog.Logger
}

// limits bound what clients and Redis can cost.
type limits struct {
	period  time.Duration // between two reads of an app
	read    time.Duration // for one of them
	sample  int           // reads of a point of the history
	lookup  time.Duration // between two looks at which apps there are
	request time.Duration // to send a request
	answer  time.Duration // to take an answer
	frame   time.Duration // to take a frame of the page
	idle    time.Duration // of a connection between two requests
	finish  time.Duration // for answers under way when the server ends
	viewers int           // of the page, at once
	clients int           // connections at once, those of viewers among them; more wait in the socket's queue
}

func standard() limits {
	return limits{
		period: 2 * time.Second, read: 5 * time.Second, sample: 5, lookup: 5 * time.Second,
		request: 5 * time.Second, answer: 30 * time.Second, frame: 10 * time.Second, idle: time.Minute, finish: time.Second,
		viewers: 1000, clients: 1256,
	}
}

type server struct {
	Config

	limits  limits
	watches *watches
	viewers chan struct{} // one for each viewer
	guard   *guard        // of commands
}

func newServer(c Config, l limits) *server {
	ws := &watches{config: c, limits: l}
	ws.now.Store(&appList{newer: make(chan struct{})})
	return &server{Config: c, limits: l, watches: ws, viewers: make(chan struct{}, l.viewers), guard: newGuard(c.Token)}
}

// Serve answers on ln until ctx ends, then finishes the answers under way, a second at
// most. It returns nil when ctx ended it, and closes ln.
func Serve(ctx context.Context, ln net.Listener, c Config) error {
	return newServer(c, standard()).serve(ctx, ln)
}

func (s *server) serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.watches.run(ctx)
	}()
	defer func() {
		cancel()
		<-watched
	}()
	web := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: s.limits.request,
		ReadTimeout:       s.limits.request,
		WriteTimeout:      s.limits.answer,
		IdleTimeout:       s.limits.idle,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug), // what strangers do wrong
		BaseContext:       func(net.Listener) context.Context { return ctx },   // streams end with it
	}
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(netutil.LimitListener(ln, s.limits.clients)) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, end := context.WithTimeout(context.WithoutCancel(ctx), s.limits.finish)
	defer end()
	if web.Shutdown(last) != nil {
		_ = web.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/fleet", s.fleet)
	mux.HandleFunc("GET /v1/scale", s.scale)
	mux.HandleFunc("GET /v1/sd", s.targets)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /host", s.host)
	mux.HandleFunc("GET /events", s.view)
	mux.HandleFunc("POST /command", s.command)
	mux.Handle("GET /", files())
	return s.protect(http.NewCrossOriginProtection().Handler(mux))
}

// protect refuses who calls this server by a name that is not its own: a browser that a
// stranger's page has led here by a name of the stranger's, which resolves to this
// address now (DNS rebinding), would let that page read everything. It sets the headers
// that bind the page: it is its own files and nothing else.
func (s *server) protect(next http.Handler) http.Handler {
	names := s.names()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Content-Security-Policy":      "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
			"X-Content-Type-Options":       "nosniff",
			"X-Frame-Options":              "DENY",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Cache-Control":                "no-store",
		} {
			w.Header().Set(name, value)
		}
		host := hostOf(r.Host)
		if _, err := netip.ParseAddr(host); err != nil && !names[host] { // an address is no name that somebody could point elsewhere
			fail(w, http.StatusMisdirectedRequest, "this server is not called %.80q: start it with --name to allow that", host)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// stateOf is the newest state of the app in ?app=, or without one of the only app that
// there is. If there is none, or Redis can't be read, it has answered.
func (s *server) stateOf(w http.ResponseWriter, r *http.Request) *state {
	name := r.URL.Query().Get("app")
	if list := s.watches.first(r.Context()); name == "" && len(list.names) == 1 {
		name = list.names[0]
	}
	return s.stateNamed(w, r, name)
}

func (s *server) stateNamed(w http.ResponseWriter, r *http.Request, name string) *state {
	list := s.watches.first(r.Context())
	err := list.err
	if of := list.watches[name]; of != nil {
		now := of.first(r.Context())
		if err = now.problem(s.limits); err == nil {
			return now
		}
	}
	switch {
	case err != nil:
		fail(w, http.StatusServiceUnavailable, "cannot read Redis: %v", err)
	case name == "":
		fail(w, http.StatusBadRequest, "%d apps are reported: name one with ?app=APP", len(list.names))
	default:
		fail(w, http.StatusNotFound, "no host reports an app %.80q", name)
	}
	return nil
}
