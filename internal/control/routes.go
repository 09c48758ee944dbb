package control

import (
	"fmt"
	"net/http"
)

func (a *api) status(w http.ResponseWriter, r *http.Request) error {
	app, err := a.backend.Status(r.Context())
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, app.whole())
	return nil
}

func (a *api) describe(w http.ResponseWriter, r *http.Request) error {
	d, err := a.backend.Describe(r.Context())
	if err != nil {
		return err
	}
	d.App = d.App.whole()
	answer(w, http.StatusOK, d)
	return nil
}

func (a *api) health(w http.ResponseWriter, r *http.Request) error {
	health, err := a.backend.Health(r.Context())
	if err != nil {
		return err
	}
	if health != StateReady {
		return &Error{http.StatusServiceUnavailable, health}
	}
	answer(w, http.StatusOK, map[string]string{"state": StateReady})
	return nil
}

func (a *api) reload(w http.ResponseWriter, r *http.Request) error {
	request := Reload{Wait: true}
	if err := read(r, &request); err != nil {
		return err
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

func (a *api) scale(w http.ResponseWriter, r *http.Request) error {
	var request scaling
	if err := read(r, &request); err != nil {
		return err
	}
	to, err := request.wanted()
	if err != nil {
		return err
	}
	scaled, err := a.backend.Scale(r.Context(), to)
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, scaled)
	return nil
}

func (a *api) drainHost(draining bool) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := read(r, &struct{}{}); err != nil {
			return err
		}
		if err := a.backend.DrainHost(r.Context(), draining); err != nil {
			return err
		}
		answer(w, http.StatusOK, map[string]bool{"host_draining": draining})
		return nil
	}
}

func (a *api) send(w http.ResponseWriter, r *http.Request) error {
	var message Message
	if err := read(r, &message); err != nil {
		return err
	}
	if err := message.Check(); err != nil {
		return err
	}
	sent, err := a.backend.Send(r.Context(), message)
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, sent)
	return nil
}

func (a *api) command(w http.ResponseWriter, r *http.Request) error {
	var c Command
	if err := read(r, &c); err != nil {
		return err
	}
	err := c.CheckID()
	if err == nil && c.Refused == "" {
		err = c.Check()
	}
	if err != nil {
		return &Error{http.StatusBadRequest, "the command " + err.Error()}
	}
	if err := a.backend.Execute(r.Context(), c); err != nil {
		return err
	}
	answer(w, http.StatusOK, map[string]string{"id": c.ID})
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
