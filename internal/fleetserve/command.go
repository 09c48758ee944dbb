package fleetserve

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

const (
	mostBody      = 4 << 10          // bytes of a command
	commandWithin = 30 * time.Second // until it expires; longer where a host reports less often
)

// order is the body of POST /command: drain, resume or shed on one host.
type order struct {
	App  string `json:"app"`
	Host string `json:"host"`
	Op   string `json:"op"`
	control.Args

	command control.Command // that it asks for
}

// command sends a command to a host and answers with its id: the events with this id
// say what has become of it. The token is in the header Authorization, which no other
// site's page can set.
func (s *server) command(w http.ResponseWriter, r *http.Request) {
	if !s.guard.open {
		fail(w, http.StatusForbidden, "this server is read-only: start it with --token-file to allow commands")
		return
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		w.Header().Set("WWW-Authenticate", "Bearer")
		fail(w, http.StatusUnauthorized, "send the token: Authorization: Bearer TOKEN")
		return
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	right, wait := s.guard.check(token, from.Addr().WithZone(""), time.Now())
	switch {
	case wait > 0:
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		fail(w, http.StatusTooManyRequests, "too many wrong tokens: wait %s", wait.Round(time.Second))
		return
	case !right:
		s.Log.Warn("a wrong token", "from", r.RemoteAddr)
		w.Header().Set("WWW-Authenticate", "Bearer")
		fail(w, http.StatusUnauthorized, "the token is wrong")
		return
	}
	o, err := readOrder(w, r)
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	now := s.stateNamed(w, r, o.App)
	if now == nil {
		return
	}
	h, ok := now.host(o.Host)
	switch {
	case !ok || h.Vanished:
		fail(w, http.StatusNotFound, "no host %.80q reports %s", o.Host, o.App)
		return
	case h.Twin != "":
		fail(w, http.StatusConflict, "two masters report as %s: give each a redis.host_id of its own", h.ID)
		return
	case !h.Obeys():
		fail(w, http.StatusConflict, "%s takes no commands: set redis.control = true there", h.ID)
		return
	}
	o.command.ID = rand.Text()
	c := fleet.Command{Command: o.command, ExpiresAt: now.fleet.At.Add(time.Since(now.read) + max(commandWithin, h.Takes()))}
	if err := s.Source.Send(r.Context(), o.App, h.ID, c); err != nil {
		fail(w, http.StatusServiceUnavailable, "cannot send it: %v", err)
		return
	}
	s.Log.Info("a command is sent", "app", o.App, "host", h.ID, "op", o.Op, "id", c.ID, "from", r.RemoteAddr)
	answer(w, http.StatusAccepted, map[string]string{"id": c.ID})
}

// readOrder reads the body of a request. What is not known in it is an error.
func readOrder(w http.ResponseWriter, r *http.Request) (o order, err error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return o, errors.New("its Content-Type is not application/json")
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostBody))
	if err != nil {
		return o, err
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&o); err != nil {
		return o, errors.New("it is no JSON of a command: " + strings.TrimPrefix(err.Error(), "json: "))
	}
	switch o.Op {
	case control.OpDrain, control.OpResume, control.OpShed:
	default:
		return o, errors.New("its op is none of drain, resume, shed")
	}
	o.command = control.Command{Op: o.Op, Args: o.Args}
	if err := o.command.Check(); err != nil {
		return o, errors.New("the command " + err.Error())
	}
	return o, nil
}
