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
	"time"

	"golang.org/x/sys/unix"
)

// Backend is the app behind a control socket: the supervisor. Its methods are
// called from many goroutines at once; ctx ends when the client leaves or the
// server is closed. An *Error chooses the HTTP status, any other error is 503.
type Backend interface {
	Status(ctx context.Context) (App, error)
	// Reload starts a roll; with Wait it returns when that has ended, and a
	// roll that did not succeed is no error but a Result.
	Reload(ctx context.Context, r Reload) (Rolled, error)
	// Stop returns when the stop has begun.
	Stop(ctx context.Context, now bool) error
}

// limits bound what clients can cost a master.
type limits struct {
	read    time.Duration // to send a request, from the first byte of a connection on
	write   time.Duration // to take an answer
	finish  time.Duration // for answers under way when the server is closed
	body    int64         // bytes of a request's body
	clients int           // connections at once; more wait in the socket's queue
	waiting int           // of these, reloads that are waited for
}

func standard() limits {
	return limits{
		read:    2 * time.Second,
		write:   5 * time.Second,
		finish:  time.Second,
		body:    64 << 10,
		clients: 128,
		waiting: 64,
	}
}

// Serve answers on the place's control socket until ctx ends, then finishes the
// answers under way, a second at most, and closes the socket. The supervisor
// runs it in a goroutine beside the loop. It returns nil when ctx ended it.
func Serve(ctx context.Context, p *Place, b Backend) error {
	return serve(ctx, p.listener, b, standard(), os.Geteuid())
}

func serve(ctx context.Context, ln *net.UnixListener, b Backend, l limits, owner int) error {
	a := &api{backend: b, limits: l, owner: owner, waiting: make(chan struct{}, l.waiting)}
	return (&server{handler: a.routes(), limits: l}).serve(ctx, ln)
}

// api turns requests into calls of the backend.
type api struct {
	backend Backend
	limits  limits
	owner   int           // the uid that may ask, beside root
	waiting chan struct{} // one for each reload that is waited for
}

type handler func(w http.ResponseWriter, r *http.Request) error

func (a *api) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(method, path string, h handler) {
		mux.Handle(path, a.guard(method, h))
	}
	handle(http.MethodGet, "/v1/status", a.status)
	handle(http.MethodGet, "/healthz", a.health)
	handle(http.MethodPost, "/v1/reload", a.reload)
	handle(http.MethodPost, "/v1/stop", a.stop)
	for _, later := range []string{"describe", "events", "logs", "scale", "drain", "resume", "send", "upgrade"} {
		handle("", "/v1/"+later, notBuilt)
	}
	handle("", "/metrics", notBuilt)
	handle("", "/", func(_ http.ResponseWriter, r *http.Request) error {
		return &Error{http.StatusNotFound, fmt.Sprintf("no such path: %s", r.URL.Path)}
	})
	return mux
}

// guard lets through who may ask, by the right method ("": any), and answers
// every error in one form.
func (a *api) guard(method string, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := a.admit(r)
		if err == nil && method != "" && r.Method != method && (r.Method != http.MethodHead || method != http.MethodGet) {
			w.Header().Set("Allow", method)
			err = &Error{http.StatusMethodNotAllowed, fmt.Sprintf("%s takes %s", r.URL.Path, method)}
		}
		if err == nil {
			err = h(w, r)
		}
		switch e, refused := errors.AsType[*Error](err); {
		case err == nil:
		case refused:
			fail(w, e.Code, e.Text)
		case r.Context().Err() != nil:
			fail(w, http.StatusServiceUnavailable, "the app ends") // or the client has left, and nobody reads this
		default:
			fail(w, http.StatusServiceUnavailable, err.Error())
		}
	})
}

func fail(w http.ResponseWriter, code int, text string) {
	answer(w, code, map[string]string{"error": text})
}

func (a *api) admit(r *http.Request) error {
	peer, ok := r.Context().Value(peerKey{}).(unix.Ucred)
	switch {
	case !ok:
		return &Error{http.StatusForbidden, "cannot tell who asks"}
	case peer.Uid != 0 && int(peer.Uid) != a.owner:
		return &Error{http.StatusForbidden, fmt.Sprintf("uid %d may not control this app: be root or uid %d", peer.Uid, a.owner)}
	}
	return nil
}

func (a *api) status(w http.ResponseWriter, r *http.Request) error {
	app, err := a.backend.Status(r.Context())
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, app)
	return nil
}

func (a *api) health(w http.ResponseWriter, r *http.Request) error {
	app, err := a.backend.Status(r.Context())
	if err != nil {
		return err
	}
	if app.State != StateReady {
		return &Error{http.StatusServiceUnavailable, app.State}
	}
	answer(w, http.StatusOK, map[string]string{"state": app.State})
	return nil
}

func (a *api) reload(w http.ResponseWriter, r *http.Request) error {
	request := Reload{Wait: true}
	if err := read(r, &request); err != nil {
		return err
	}
	if !request.KeepConfig {
		return &Error{http.StatusServiceUnavailable, `reading the configuration again is not built yet: send {"keep_config":true}`}
	}
	if request.Wait {
		select {
		case a.waiting <- struct{}{}:
			defer func() { <-a.waiting }()
		default:
			return &Error{http.StatusServiceUnavailable, fmt.Sprintf(`%d clients wait for a reload already: send {"wait":false}`, a.limits.waiting)}
		}
	}
	rolled, err := a.backend.Reload(r.Context(), request)
	if err != nil {
		return err
	}
	code := http.StatusConflict
	switch {
	case !request.Wait:
		code = http.StatusAccepted
	case rolled.Result == ResultDone:
		code = http.StatusOK
	}
	answer(w, code, rolled)
	return nil
}

func (a *api) stop(w http.ResponseWriter, r *http.Request) error {
	var request Stop
	if err := read(r, &request); err != nil {
		return err
	}
	if err := a.backend.Stop(r.Context(), request.Now); err != nil {
		return err
	}
	answer(w, http.StatusAccepted, map[string]string{"state": StateStopping})
	return nil
}

func notBuilt(_ http.ResponseWriter, r *http.Request) error {
	return &Error{http.StatusServiceUnavailable, r.URL.Path + " is not built yet"}
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
