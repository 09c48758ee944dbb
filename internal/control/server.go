package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// limits bound what clients can cost a master.
type limits struct {
	read      time.Duration // to send a request, from the beginning of a connection on
	hurry     time.Duration // the same where another client waits for the place
	linger    time.Duration // to take in what a refused client goes on sending
	write     time.Duration // to take an answer, or the next piece of a stream
	finish    time.Duration // for answers under way when the server is closed
	heartbeat time.Duration // between signs of life of a stream
	body      int64         // bytes of a request's body
	message   int64         // the same of /v1/send
	large     int           // bodies between these two at once
	clients   int           // connections at once; more wait in the socket's queue
	waiting   int           // of these, reloads that are waited for
	streams   int           // of these, readers that follow the events
}

func standard() limits {
	return limits{
		read:      2 * time.Second,
		hurry:     20 * time.Millisecond,
		linger:    300 * time.Millisecond,
		write:     5 * time.Second,
		finish:    time.Second,
		heartbeat: 15 * time.Second,
		body:      64 << 10,
		message:   MaxMessage + 4<<10,
		large:     8,
		clients:   128,
		waiting:   64,
		streams:   32,
	}
}

// bodyOf is the most bytes that a request's body may have.
func (l limits) bodyOf(r *http.Request) int64 {
	if r.URL.Path == sendPath {
		return l.message
	}
	return l.body
}

// Serve answers on the place's control socket until ctx ends, then finishes the
// answers under way, a second at most, and closes the socket. Beside root and
// this process's user the members of a group may ask, unless it is -1. The
// supervisor runs it in a goroutine beside the loop. It returns nil when ctx
// ended it.
func Serve(ctx context.Context, p *RuntimeDir, b Backend, group int) error {
	return serve(ctx, &p.listener, b, standard(), door{owner: os.Geteuid(), group: group})
}

// ServeHealth answers GET /healthz to whoever asks, as a balancer does, until ctx
// ends; then it closes the listener. The supervisor runs it beside the loop.
func ServeHealth(ctx context.Context, ln net.Listener, b Backend) error {
	l := standard()
	a := &api{backend: b, limits: l}
	open := func(*http.Request) error { return nil }
	handler := answering(open, map[string]route{
		"/healthz": {http.MethodGet, a.health},
		"/metrics": {"", notBuilt},
	})
	return (&server{handler: handler, limits: l, large: make(chan struct{}, l.large)}).serve(ctx, ln)
}

func serve(ctx context.Context, ln net.Listener, b Backend, l limits, d door) error {
	return newServer(b, l, d).serve(ctx, ln)
}

func newServer(b Backend, l limits, d door) *server {
	a := &api{
		backend: b, limits: l, door: d,
		waiting: make(chan struct{}, l.waiting),
		streams: make(chan struct{}, l.streams),
	}
	return &server{handler: a.routes(), limits: l, groups: d.group >= 0, large: make(chan struct{}, l.large)}
}

// api turns requests into calls of the backend.
type api struct {
	backend Backend
	limits  limits
	door    door
	waiting chan struct{} // one for each reload that is waited for
	streams chan struct{} // one for each reader that follows
}

type handler func(w http.ResponseWriter, r *http.Request) error

// route is what a path does, for one method ("": any).
type route struct {
	method string
	handle handler
}

const sendPath = "/v1/send"

// routes is every path, exactly: there are few, and http.ServeMux would answer
// some others by itself, in HTML.
func (a *api) routes() http.Handler {
	return answering(a.door.admit, map[string]route{
		"/v1/status":   {http.MethodGet, a.status},
		"/v1/describe": {http.MethodGet, a.describe},
		"/v1/events":   {http.MethodGet, a.events},
		"/healthz":     {http.MethodGet, a.health},
		"/v1/reload":   {http.MethodPost, a.reload},
		"/v1/scale":    {http.MethodPost, a.scale},
		"/v1/drain":    {http.MethodPost, a.drainHost(true)},
		"/v1/resume":   {http.MethodPost, a.drainHost(false)},
		sendPath:       {http.MethodPost, a.send},
		"/v1/command":  {http.MethodPost, a.command},
		"/v1/stop":     {http.MethodPost, a.stop},
		"/v1/logs":     {"", notBuilt},
		"/v1/upgrade":  {"", notBuilt},
		"/metrics":     {"", notBuilt},
	})
}

// answering has the routes answer whom admit lets in.
func answering(admit func(*http.Request) error, routes map[string]route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := admit(r)
		if err == nil {
			err = dispatch(routes, w, r)
		}
		switch e, refused := errors.AsType[*Error](err); {
		case err == nil:
		case refused:
			fail(w, e.Code, e.Text)
		case r.Context().Err() != nil:
			why := errEnds
			if errors.Is(context.Cause(r.Context()), errLeft) {
				why = errLeft // which somebody reads who has closed one direction only
			}
			fail(w, why.Code, why.Text)
		default:
			fail(w, http.StatusServiceUnavailable, err.Error())
		}
	})
}

// errEnds is for who waits when the server is closed.
var errEnds = &Error{http.StatusServiceUnavailable, "the app ends"}

func dispatch(routes map[string]route, w http.ResponseWriter, r *http.Request) error {
	to, ok := routes[r.URL.Path]
	switch {
	case !ok:
		return &Error{http.StatusNotFound, fmt.Sprintf("no such path: %s", r.URL.Path)}
	case to.method == "", r.Method == to.method, r.Method == http.MethodHead && to.method == http.MethodGet:
		return to.handle(w, r)
	}
	w.Header().Set("Allow", to.method)
	return &Error{http.StatusMethodNotAllowed, fmt.Sprintf("%s takes %s", r.URL.Path, to.method)}
}

// fail answers an error. Its text may quote what the client has sent: it is cut.
func fail(w http.ResponseWriter, code int, text string) {
	const most = 2048 // bytes
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	answer(w, code, map[string]string{"error": text})
}

// read takes the body into v, strictly; an empty one leaves v as it is.
func read(r *http.Request, v any) error {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &Error{http.StatusBadRequest, "cannot read the body: " + err.Error()}
	}
	if _, err := d.Token(); err != io.EOF {
		return &Error{http.StatusBadRequest, "cannot read the body: more than one JSON value"}
	}
	return nil
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, code int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("control: cannot write %T as JSON: %v", v, err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(append(data, '\n')) // kept until the handler is done: it can't fail
}
