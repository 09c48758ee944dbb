package control

import (
	"context"
	"fmt"
	"net/http"
)

type route struct {
	method string // "": any
	handle handler
	body   int64 // bytes at most; 0: limits.body
}

// handler answers a request whose body has been read: answer goes out as JSON. With
// code 0 the answer has been written.
type handler func(w http.ResponseWriter, r *http.Request, body []byte) (code int, answer any, err error)

// allRoutes has every path, exactly: http.ServeMux would redirect others, and
// refuse them in plain text.
func (a *api) allRoutes() map[string]route {
	send := post(Message{}, a.send)
	send.body = MaxMessage + 4<<10
	return map[string]route{
		"/healthz":     get(a.health),
		"/v1/status":   get(a.status),
		"/v1/summary":  get(a.backend.Summary),
		"/v1/describe": get(a.describe),
		"/v1/events":   {method: http.MethodGet, handle: a.events},
		"/v1/reload":   post(Reload{Wait: true}, a.reload),
		"/v1/scale":    post(scaling{}, a.scale),
		"/v1/drain":    post(struct{}{}, a.drainHost(true)),
		"/v1/resume":   post(struct{}{}, a.drainHost(false)),
		"/v1/stop":     post(Stop{}, a.stop),
		"/v1/command":  post(Command{}, a.command),
		"/v1/send":     send,
		"/v1/logs":     {method: http.MethodGet, handle: a.logs},
		"/v1/upgrade": {handle: func(_ http.ResponseWriter, r *http.Request, _ []byte) (int, any, error) {
			return 0, nil, &Error{http.StatusServiceUnavailable, r.URL.Path + " is not built yet"}
		}},
		"/metrics": {method: http.MethodGet, handle: a.metrics},
	}
}

func get[T any](query func(context.Context) (T, error)) route {
	return route{method: http.MethodGet, handle: func(_ http.ResponseWriter, r *http.Request, _ []byte) (int, any, error) {
		answer, err := query(r.Context())
		return http.StatusOK, answer, err
	}}
}

// post is the route of a command, whose body is a T; what it leaves out is as in
// defaults.
func post[T any](defaults T, do func(context.Context, T) (code int, answer any, err error)) route {
	return route{method: http.MethodPost, handle: func(_ http.ResponseWriter, r *http.Request, body []byte) (int, any, error) {
		request := defaults
		if err := decode(body, &request); err != nil {
			return 0, nil, err
		}
		return do(r.Context(), request)
	}}
}

// acquire reports whether there was a free place in a semaphore.
func acquire(semaphore chan struct{}) bool {
	select {
	case semaphore <- struct{}{}:
		return true
	default:
		return false
	}
}

func (a *api) status(ctx context.Context) (App, error) {
	app, err := a.backend.Status(ctx)
	return app.whole(), err
}

func (a *api) describe(ctx context.Context) (Description, error) {
	d, err := a.backend.Describe(ctx)
	d.App = d.App.whole()
	return d, err
}

func (a *api) health(ctx context.Context) (map[string]string, error) {
	s, err := a.backend.Summary(ctx)
	if err == nil && s.State != StateReady {
		err = &Error{http.StatusServiceUnavailable, s.State}
	}
	return map[string]string{"state": s.State}, err
}

func (a *api) reload(ctx context.Context, request Reload) (int, any, error) {
	if request.Wait {
		if !acquire(a.waiting) {
			return 0, nil, &Error{http.StatusServiceUnavailable, fmt.Sprintf(`%d clients wait for a reload already: send {"wait":false}`, a.limits.waiting)}
		}
		defer func() { <-a.waiting }()
	}
	rolled, err := a.backend.Reload(ctx, request)
	switch {
	case !request.Wait:
		return http.StatusAccepted, rolled, err
	case rolled.Result == ResultDone:
		return http.StatusOK, rolled, err
	default:
		return http.StatusConflict, rolled, err
	}
}

func (a *api) scale(ctx context.Context, request scaling) (int, any, error) {
	if request.Workers == "" {
		return 0, nil, &Error{http.StatusBadRequest, `cannot scale: send {"workers":4}, or "+1", "-1", "cpus", "50%"`}
	}
	scaled, err := a.backend.Scale(ctx, request.Workers)
	return http.StatusOK, scaled, err
}

func (a *api) drainHost(draining bool) func(context.Context, struct{}) (int, any, error) {
	return func(ctx context.Context, _ struct{}) (int, any, error) {
		return http.StatusOK, map[string]bool{"host_draining": draining}, a.backend.DrainHost(ctx, draining)
	}
}

func (a *api) send(ctx context.Context, message Message) (int, any, error) {
	if err := message.Check(); err != nil {
		return 0, nil, err
	}
	sent, err := a.backend.Send(ctx, message)
	return http.StatusOK, sent, err
}

func (a *api) command(ctx context.Context, c Command) (int, any, error) {
	err := c.CheckID()
	if err == nil && c.Refused == "" {
		err = c.Check()
	}
	if err != nil {
		return 0, nil, &Error{http.StatusBadRequest, "the command " + err.Error()}
	}
	return http.StatusOK, map[string]string{"id": c.ID}, a.backend.Execute(ctx, c)
}

func (a *api) stop(ctx context.Context, request Stop) (int, any, error) {
	return http.StatusAccepted, map[string]string{"state": StateStopping}, a.backend.Stop(ctx, request.Now)
}
