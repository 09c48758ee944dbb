package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/forkd/forkd/internal/control"
)

// The bounds of a host's `workers`.
const (
	mostRows    = 4096    // every slot that an app can have, with predecessors and leaving ones
	mostColumns = 1 << 20 // bytes
	mostNumber  = 1 << 53 // beyond it, a JSON number is not exact for everybody
	mostPercent = 1e7     // 100 is one core
)

// Worker is one row of a host's workers. A figure that is not known is nil.
type Worker struct {
	Slot        int64    `json:"slot"`
	PID         *int64   `json:"pid"` // nil: the slot has no process
	Generation  *int64   `json:"generation"`
	State       string   `json:"state"`
	Connections *int64   `json:"connections"`
	Accepted    *int64   `json:"accepted"`
	Requests    *int64   `json:"requests"`
	Queue       *int64   `json:"queue"`
	CPUPercent  *float64 `json:"cpu_percent"`
	RSSBytes    *int64   `json:"rss_bytes"`
	Restarts    *int64   `json:"restarts"`
	Stalled     bool     `json:"stalled"` // connections wait for it, and it takes none
}

// columns are the workers of a host in its hash: a JSON object of equally long lists,
// because a list of objects would repeat each name 64 times. Slot and State are there
// whenever another column is. A nil entry is not known.
type columns struct {
	Slot        []*int64   `json:"slot"`
	PID         []*int64   `json:"pid"`
	Generation  []*int64   `json:"generation"`
	State       []string   `json:"state"`
	Connections []*int64   `json:"connections"`
	Accepted    []*int64   `json:"accepted"`
	Requests    []*int64   `json:"requests"`
	Queue       []*int64   `json:"queue"`
	CPUPercent  []*float64 `json:"cpu_percent"`
	RSSBytes    []*int64   `json:"rss_bytes"`
	Restarts    []*int64   `json:"restarts"`
	Stalled     []bool     `json:"stalled,omitempty"` // only there while one is
}

// figure is a column of whole numbers, and the field of a worker that is in it.
type figure struct {
	name   string
	column *[]*int64
	of     func(*Worker) **int64
}

func (c *columns) figures() []figure {
	return []figure{
		{"pid", &c.PID, func(w *Worker) **int64 { return &w.PID }},
		{"generation", &c.Generation, func(w *Worker) **int64 { return &w.Generation }},
		{"connections", &c.Connections, func(w *Worker) **int64 { return &w.Connections }},
		{"accepted", &c.Accepted, func(w *Worker) **int64 { return &w.Accepted }},
		{"requests", &c.Requests, func(w *Worker) **int64 { return &w.Requests }},
		{"queue", &c.Queue, func(w *Worker) **int64 { return &w.Queue }},
		{"rss_bytes", &c.RSSBytes, func(w *Worker) **int64 { return &w.RSSBytes }},
		{"restarts", &c.Restarts, func(w *Worker) **int64 { return &w.Restarts }},
	}
}

// appendColumns appends the workers of slots, and a row for each slot without one.
func appendColumns(b []byte, slots []control.Slot) []byte {
	c := columns{Slot: []*int64{}, State: []string{}, CPUPercent: []*float64{}}
	figures := c.figures()
	for _, f := range figures {
		*f.column = []*int64{}
	}
	var stalled []bool
	add := func(w Worker) {
		stalled = append(stalled, w.Stalled)
		c.Slot, c.State, c.CPUPercent = append(c.Slot, &w.Slot), append(c.State, w.State), append(c.CPUPercent, w.CPUPercent)
		for _, f := range figures {
			*f.column = append(*f.column, *f.of(&w))
		}
	}
	for _, s := range slots {
		slot, restarts := int64(s.Slot), new(int64(s.Restarts))
		if len(s.Workers) == 0 {
			add(Worker{Slot: slot, State: s.State, Restarts: restarts})
		}
		for _, w := range s.Workers {
			if w.CPUPercent != nil {
				w.CPUPercent = new(tenths(*w.CPUPercent))
			}
			add(Worker{
				Slot: slot, PID: new(int64(w.PID)), Generation: new(int64(w.Generation)), State: w.State,
				Connections: w.Connections, Accepted: w.Accepted, Requests: w.Requests, Queue: w.Queue,
				CPUPercent: w.CPUPercent, RSSBytes: w.RSSBytes, Restarts: restarts, Stalled: w.Stalled,
			})
		}
	}
	if slices.Contains(stalled, true) {
		c.Stalled = stalled
	}
	text, _ := json.Marshal(c)
	return append(b, text...)
}

func tenths(f float64) float64 { return math.Round(f*10) / 10 }

// parseWorkers parses what appendColumns writes. Unknown columns, of a later forkd,
// are skipped. The error is short and printable.
func parseWorkers(text string) ([]Worker, error) {
	if len(text) > mostColumns {
		return nil, fmt.Errorf("%d bytes: at most %d are read", len(text), mostColumns)
	}
	var c columns
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
			return nil, fmt.Errorf("column %s cannot hold this: %s", wrong.Field, sanitize(wrong.Value))
		}
		return nil, fmt.Errorf("no JSON object of columns: %s", sanitize(err.Error()))
	}
	rows := len(c.Slot)
	switch {
	case rows > mostRows:
		return nil, fmt.Errorf("%d rows: at most %d are read", rows, mostRows)
	case len(c.State) != rows:
		return nil, fmt.Errorf("column state has %d rows, slot has %d", len(c.State), rows)
	case c.Stalled != nil && len(c.Stalled) != rows:
		return nil, fmt.Errorf("column stalled has %d rows, slot has %d", len(c.Stalled), rows)
	}
	figures := c.figures()
	for _, f := range append(figures, figure{name: "slot", column: &c.Slot}) {
		if err := checkColumn(f.name, *f.column, rows, mostNumber, "not a whole number from 0 to 2^53"); err != nil {
			return nil, err
		}
	}
	if err := checkColumn("cpu_percent", c.CPUPercent, rows, mostPercent, "no share of a processor"); err != nil || c.Slot == nil {
		return nil, err
	}
	workers := make([]Worker, rows)
	for i := range workers {
		w, state := &workers[i], c.State[i]
		switch {
		case len(state) > mostWord || !printable(state):
			return nil, fmt.Errorf("column state, row %d: %s is not a state", i, short(state))
		case c.Slot[i] == nil:
			return nil, fmt.Errorf("column slot, row %d: there is none", i)
		}
		w.Slot, w.State = *c.Slot[i], state
		if c.Stalled != nil {
			w.Stalled = c.Stalled[i]
		}
		if c.CPUPercent != nil {
			w.CPUPercent = c.CPUPercent[i]
		}
		for _, f := range figures {
			if *f.column != nil {
				*f.of(w) = (*f.column)[i]
			}
		}
	}
	return workers, nil
}

// checkColumn returns an error for a column of another length than rows, and for values
// out of bounds.
func checkColumn[T int64 | float64](name string, column []*T, rows int, most T, what string) error {
	if column != nil && len(column) != rows {
		return fmt.Errorf("column %s has %d rows, slot has %d", name, len(column), rows)
	}
	for row, v := range column {
		if v != nil && !(*v >= 0 && *v <= most) {
			return fmt.Errorf("column %s, row %d: %v is %s", name, row, *v, what)
		}
	}
	return nil
}
