package fleetserve

import (
	"slices"
	"time"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// fewHosts is of how many hosts a frame has the history: more are drawn too small for it.
const fewHosts = 64

// common is what frames say of all apps.
type common struct {
	Apps     []string `json:"apps"`
	Commands bool     `json:"commands"` // a token lets viewers send them
	Limit    float64  `json:"limit"`    // percent of the capacity, above which hosts are added
}

// frame is what is said to viewers: everything, or what is new.
type frame struct {
	common

	full    bool
	events  []fleet.Entry
	rows    []row
	gone    []string
	sampled bool // the histories have one more point
}

// head is a frame without its hosts. Ages are in seconds: the clocks of browsers differ.
type head struct {
	common

	Version uint64             `json:"version"`
	App     string             `json:"app"`
	Problem string             `json:"problem,omitempty"` // with the list of hosts
	Error   string             `json:"error,omitempty"`   // why Redis can't be read
	Age     *float64           `json:"age,omitempty"`     // of what is shown; none: nothing has been read yet
	At      time.Time          `json:"at,omitzero"`       // of the figures, by Redis's clock
	Totals  fleet.Totals       `json:"totals"`
	Sums    sums               `json:"sums"`
	Advice  *advise.Advice     `json:"advice,omitempty"`
	Events  []fleet.Entry      `json:"events,omitempty"`
	NoEvent string             `json:"no_event,omitempty"` // why events can't be read
	Hidden  int                `json:"hidden,omitempty"`   // hosts beyond those that are shown
	Sampled bool               `json:"sampled,omitempty"`
	History *history           `json:"history,omitempty"`
	Past    map[string][]int64 `json:"past,omitempty"` // of hosts
	Gone    []string           `json:"gone,omitempty"`
}

// sums are figures of the hosts that have not vanished. One that no host knows is null.
type sums struct {
	Queue   *int64 `json:"queue"`
	Refused *int64 `json:"refused"`
	Moved   *int64 `json:"moved"`
}

// encode writes a frame as an event of SSE, all in one: `event: full` has everything,
// `event: delta` the hosts that have changed, the events that are new and all the rest.
// JSON has no line breaks, which would end it.
func (s *state) encode(f frame) []byte {
	h := head{
		common: f.common, Version: s.version, App: s.app, Problem: s.fleet.Problem, At: s.fleet.At, Totals: s.fleet.Totals, Sums: sumUp(s.fleet.Hosts),
		Hidden: len(s.fleet.Hosts) - len(s.rows), Events: f.events, Sampled: f.sampled, Gone: f.gone,
	}
	if s.err != nil {
		h.Error = s.err.Error()
	}
	if s.noEvent != nil {
		h.NoEvent = s.noEvent.Error()
	}
	if !s.read.IsZero() {
		h.Age, h.Advice = new(time.Since(s.read).Seconds()), &s.advice
	}
	name := "delta"
	if f.full {
		name, h.History = "full", &s.history
		if len(s.rows) <= fewHosts {
			h.Past = s.hosts
		}
	}
	text := control.MustMarshal(h)
	size := len(text) + 64
	for _, r := range f.rows {
		size += len(r.json) + 1
	}
	b := make([]byte, 0, size)
	b = append(append(append(append(b, "event: "...), name...), "\ndata: "...), text[:len(text)-1]...)
	b = append(b, `,"hosts":[`...)
	for i, r := range f.rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, r.json...)
	}
	return append(b, "]}\n\n"...)
}

func sumUp(hosts []fleet.Host) (all sums) {
	add := func(to **int64, part *int64) {
		if part != nil {
			*to = new(fleet.Sum(fleet.ValueOr(*to, 0), *part))
		}
	}
	for i := range hosts {
		if h := &hosts[i]; !h.Vanished {
			add(&all.Queue, h.Queue)
			add(&all.Refused, h.Refused)
			add(&all.Moved, h.Moved)
		}
	}
	return all
}

// flagStalled is added to the state of a worker in a row.
const flagStalled = 16

// hostRow is what a frame says of a host, with short names, as there may be thousands. A
// figure that is not known is left out.
type hostRow struct {
	ID          string  `json:"id"`
	State       string  `json:"s,omitempty"`
	Problem     string  `json:"p,omitempty"`
	Flags       int     `json:"f"` // 1 stale, 2 vanished, 4 a twin, 8 takes commands
	Connections *int64  `json:"c,omitempty"`
	Capacity    *int64  `json:"k,omitempty"`
	Queue       *int64  `json:"q,omitempty"`
	Generation  *int64  `json:"g,omitempty"`
	Ready       *int64  `json:"r,omitempty"`
	Wanted      *int64  `json:"n,omitempty"`
	Moved       *int64  `json:"m,omitempty"`
	Refused     *int64  `json:"x,omitempty"`
	Workers     []int64 `json:"w"`              // five numbers for each: slot, state, generation, connections, queue, -1 where not known
	More        int     `json:"more,omitempty"` // workers that are left out
}

func rowOf(h *fleet.Host, cells int) hostRow {
	shown := h.Workers[:min(len(h.Workers), cells)]
	r := hostRow{
		ID: h.ID, State: h.State, Problem: h.Problem, Connections: h.Connections, Capacity: h.Capacity, Queue: h.Queue, Generation: h.Generation,
		Ready: h.Ready, Wanted: h.Wanted, Moved: h.Moved, Refused: h.Refused,
		Workers: make([]int64, 0, 5*len(shown)), More: len(h.Workers) - len(shown),
	}
	for i, is := range [...]bool{h.Stale, h.Vanished, h.Twin != "", h.Obeys()} {
		if is {
			r.Flags |= 1 << i
		}
	}
	states := []string{control.StateStarting, control.StateReady, control.StateDraining, "backoff", "exited", "failed", ""}
	for i := range shown {
		w := &shown[i]
		states[6] = w.State // one that is not known
		state := int64(slices.Index(states, w.State))
		if w.Stalled {
			state |= flagStalled
		}
		r.Workers = append(r.Workers, w.Slot, state, fleet.ValueOr(w.Generation, -1), fleet.ValueOr(w.Connections, -1), fleet.ValueOr(w.Queue, -1))
	}
	return r
}
