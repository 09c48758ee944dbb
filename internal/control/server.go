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
	"strconv"
	"strings"
	"time"
)

type limits struct {
	read, busyRead, write, finish, heartbeat, fresh time.Duration

	body                             int64
	large, clients, waiting, streams int
}

func standard() limits {
	return limits{
		read:      2 * time.Second,        // to send a request
		busyRead:  100 * time.Millisecond, // the same while every connection is taken and another client waits
		write:     5 * time.Second,        // to take an answer, or the next piece of a stream
		finish:    time.Second,            // for answers under way when the server is closed
		heartbeat: 15 * time.Second,       // between comments on a stream
		body:      64 << 10,               // bytes of a request's body, unless its route has another limit
		fresh:     0,                      // how old the figures of /metrics may be
		large:     8,                      // bodies beyond that at once
		clients:   128,                    // connections at once; more wait in the socket's queue
		waiting:   64,                     // of these, reloads that are waited for
		streams:   32,                     // of these, readers that follow the events
	}
}

// maxHeader bounds the line and headers of a request, and of an answer, in bytes.
const maxHeader = 16 << 10

// Serve answers on the app's control socket until ctx ends, then finishes the
// answers under way, a second at most, and closes the socket. Root and this
// process's user may ask, and the members of a group, unless it is -1. The
// supervisor runs it in a goroutine beside the loop. It returns nil when ctx
// ended it.
func Serve(ctx context.Context, d *RuntimeDir, b Backend, group int) error {
	return newAPI(b, standard(), access{owner: os.Geteuid(), group: group}).serve(ctx, &d.listener)
}

// ServeHealth answers GET /healthz and /metrics to whoever asks, as a balancer and
// Prometheus do, until ctx ends; then it closes the listener. The supervisor runs it
// beside the loop.
func ServeHealth(ctx context.Context, ln net.Listener, b Backend) error {
	l := standard()
	l.fresh = time.Second
	a := newAPI(b, l, access{everybody: true, group: -1})
	a.routes = map[string]route{"/healthz": a.routes["/healthz"], "/metrics": a.routes["/metrics"]}
	return a.serve(ctx, ln)
}

// api turns requests into calls of the backend.
type api struct {
	backend Backend
	limits  limits
	access  access
	routes  map[string]route
	waiting chan struct{} // one for each reload that is waited for
	streams chan struct{} // one for each reader that follows
	large   chan struct{} // one for each large body
	figures figures
}

func newAPI(b Backend, l limits, who access) *api {
	a := &api{
		backend: b, limits: l, access: who,
		waiting: make(chan struct{}, l.waiting),
		streams: make(chan struct{}, l.streams),
		large:   make(chan struct{}, l.large),
		figures: figures{lock: make(chan struct{}, 1)},
	}
	a.routes = a.allRoutes()
	return a
}

func (a *api) serve(ctx context.Context, ln net.Listener) error {
	return a.serveOn(ctx, newListener(ctx, ln, a.limits))
}

type connKey struct{}

// serveOn answers one request on each connection.
func (a *api) serveOn(ctx context.Context, ln *listener) error {
	base, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	defer func() { ln.spare.Close() }() // or nothing, if it is nil
	server := &http.Server{
		Handler:                      http.AllowQuerySemicolons(a), // else each is a line on stderr
		DisableGeneralOptionsHandler: true,
		Protocols:                    http1(),
		ReadTimeout:                  a.limits.read,
		WriteTimeout:                 a.limits.write,
		MaxHeaderBytes:               maxHeader - 4096, // net/http adds that
		BaseContext:                  func(net.Listener) context.Context { return base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	server.SetKeepAlivesEnabled(false)
	down := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(down)
		end(errEnds)
		finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.limits.finish)
		defer cancel()
		if server.Shutdown(finish) != nil {
			server.Close()
		}
	})
	err := server.Serve(ln)
	if cancel() {
		server.Close()
		return fmt.Errorf("cannot serve %s: %v", ln.Addr(), err)
	}
	<-down
	return nil
}

// http1 is HTTP/1.1 alone: HTTP/2 costs memory.
func http1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

var (
	errEnds = &Error{http.StatusServiceUnavailable, "the app ends"}
	errLeft = &Error{http.StatusServiceUnavailable, "the client has closed the connection before the answer"} // for one that reads on
	errLate = &Error{http.StatusRequestTimeout, "the request did not come in time: send it again"}
)

// ServeHTTP implements http.Handler: it answers with JSON, errors too, unless the answer is
// a text.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	code, answer, err := a.handle(w, r)
	if err != nil {
		e := refusal(r.Context(), err)
		code, answer = e.Code, map[string]string{"error": e.Text}
	}
	if code == 0 {
		return // it was a stream
	}
	out, isText := answer.(text)
	if !isText {
		out = text{"application/json", append(MustMarshal(answer), '\n')}
	}
	w.Header().Set("Content-Type", out.kind)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Length", strconv.Itoa(len(out.data)))
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(a.limits.write))
	w.WriteHeader(code)
	_, _ = w.Write(out.data) // a client that does not take it has left
}

// refusal is what the client is told of an error. It may quote what the client has
// sent: it is cut.
func refusal(ctx context.Context, err error) Error {
	const most = 2048 // bytes
	e, ok := errors.AsType[*Error](err)
	if !ok && ctx.Err() != nil {
		if e, ok = errors.AsType[*Error](context.Cause(ctx)); !ok {
			e, ok = errLeft, true
		}
	}
	if !ok {
		e = &Error{http.StatusServiceUnavailable, err.Error()}
	}
	return Error{e.Code, Cut(e.Text, most)}
}

// Cut returns at most so many bytes of a text, and says if there were more.
func Cut(text string, most int) string {
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

func (a *api) handle(w http.ResponseWriter, r *http.Request) (code int, answer any, err error) {
	c := r.Context().Value(connKey{}).(*conn)
	c.handled.Store(true)
	to, found := a.routes[r.URL.Path]
	limit := max(a.limits.body, to.body)
	if limit > a.limits.body && (r.ContentLength < 0 || r.ContentLength > a.limits.body) {
		select {
		case a.large <- struct{}{}:
			defer func() { <-a.large }()
		case <-r.Context().Done():
			return 0, nil, r.Context().Err()
		case <-time.After(a.limits.read):
			return 0, nil, &Error{http.StatusServiceUnavailable, fmt.Sprintf("%d large messages are on their way already: try again", a.limits.large)}
		}
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(a.limits.read)) // the wait was not the client's
	}
	body, err := readBody(w, r, limit)
	if err == nil && !c.decide() {
		err = errLate
	}
	if err == nil {
		err = a.access.authorize(c.peer)
	}
	if err == nil && c.peer != nil && r.Method == http.MethodPost {
		c.peer.name()
	}
	if err != nil {
		return 0, nil, err
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // from now on it notices that the client leaves
	switch {
	case !found:
		return 0, nil, &Error{http.StatusNotFound, fmt.Sprintf("no such path: %s", r.URL.Path)}
	case to.method == "", r.Method == to.method, r.Method == http.MethodHead && to.method == http.MethodGet:
		return to.handle(w, r, body)
	}
	w.Header().Set("Allow", to.method)
	return 0, nil, &Error{http.StatusMethodNotAllowed, fmt.Sprintf("%s takes %s", r.URL.Path, to.method)}
}

// readBody takes a request's body. An *Error is for the client.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	tooLarge := &Error{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", limit)}
	if r.ContentLength > limit && r.Header.Get("Expect") != "" {
		return nil, tooLarge
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge
	}
	switch {
	case err == nil:
		return data, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errLate
	default:
		return nil, &Error{http.StatusBadRequest, "cannot read the body: " + err.Error()}
	}
}

// decode reads a body into v, strictly; an empty one leaves v as it is.
func decode(body []byte, v any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			return e
		}
		return &Error{http.StatusBadRequest, "cannot read the body: " + err.Error()}
	}
	if _, err := d.Token(); err != io.EOF {
		return &Error{http.StatusBadRequest, "cannot read the body: more than one JSON value"}
	}
	return nil
}
