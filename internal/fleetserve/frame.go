package fleetserve

import (
	"encoding/json"
	"fmt"
	"strconv"
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
	Events  []event            `json:"events,omitempty"`
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

// event is an event as the page shows it.
type event struct {
	ID      string    `json:"id"`
	Time    time.Time `json:"time"`
	Host    string    `json:"host"`
	Type    string    `json:"type"`
	Slot    *int      `json:"slot,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Command string    `json:"command,omitempty"`
}

// encode writes a frame as an event of SSE, all in one: `event: full` has everything,
// `event: delta` the hosts that have changed, the events that are new and all the rest.
// JSON has no line breaks, which would end it.
func (s *state) encode(f frame) []byte {
	h := head{
		common: f.common, Version: s.version, App: s.app, Problem: s.fleet.Problem, At: s.fleet.At, Totals: s.fleet.Totals, Sums: sumUp(s.fleet.Hosts),
		Hidden: len(s.fleet.Hosts) - len(s.rows), Sampled: f.sampled, Gone: f.gone,
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
	for _, e := range f.events {
		h.Events = append(h.Events, event{e.ID, e.Time, e.Host, e.Type, e.Slot, e.Reason, e.Command})
	}
	name := "delta"
	if f.full {
		name, h.History = "full", &s.history
		if len(s.rows) <= fewHosts {
			h.Past = s.hosts
		}
	}
	text, err := json.Marshal(h)
	if err != nil {
		panic(fmt.Sprintf("fleetserve: cannot write a frame as JSON: %v", err))
	}
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
			*to = new(fleet.Sum(valueOr(*to, 0), *part))
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

// appendRow appends what a frame says of a host: a JSON object with short names, as
// there may be thousands. A figure that is not known is left out. f are flags: 1 stale, 2
// vanished, 4 a twin, 8 takes commands. w are its workers, five
// numbers for each: slot, state, generation, connections, queue, -1 where not known.
func appendRow(b []byte, h *fleet.Host, cells int) []byte {
	b = appendText(append(b, `{"id":`...), h.ID)
	if h.State != "" {
		b = appendText(append(b, `,"s":`...), h.State)
	}
	if h.Problem != "" {
		b = appendText(append(b, `,"p":`...), h.Problem)
	}
	flags := int64(0)
	for i, is := range [...]bool{h.Stale, h.Vanished, h.Twin != "", h.Obeys()} {
		if is {
			flags |= 1 << i
		}
	}
	for _, of := range [...]struct {
		name   string
		figure *int64
	}{
		{"f", &flags},
		{"c", h.Connections},
		{"k", h.Capacity},
		{"q", h.Queue},
		{"g", h.Generation},
		{"r", h.Ready},
		{"n", h.Wanted},
		{"m", h.Moved},
		{"x", h.Refused},
	} {
		if of.figure != nil {
			b = append(append(append(b, `,"`...), of.name...), `":`...)
			b = strconv.AppendInt(b, *of.figure, 10)
		}
	}
	b = append(b, `,"w":[`...)
	for i := range h.Workers[:min(len(h.Workers), cells)] {
		w := &h.Workers[i]
		if i > 0 {
			b = append(b, ',')
		}
		state := stateCode(w.State)
		if w.Stalled {
			state |= flagStalled
		}
		for k, n := range [...]int64{w.Slot, state, valueOr(w.Generation, -1), valueOr(w.Connections, -1), valueOr(w.Queue, -1)} {
			if k > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, n, 10)
		}
	}
	b = append(b, ']')
	if more := len(h.Workers) - cells; more > 0 {
		b = strconv.AppendInt(append(b, `,"more":`...), int64(more), 10)
	}
	return append(b, '}')
}

// stateCode is the number of a worker's state in a row; 6 is none that is known.
func stateCode(state string) int64 {
	switch state {
	case control.StateStarting:
		return 0
	case control.StateReady:
		return 1
	case control.StateDraining:
		return 2
	case "backoff":
		return 3
	case "exited":
		return 4
	case "failed":
		return 5
	default:
		return 6
	}
}

// appendText appends a string as JSON, whatever it holds.
func appendText(b []byte, s string) []byte {
	text, _ := json.Marshal(s) // a string has no error
	return append(b, text...)
}
