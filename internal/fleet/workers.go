package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"

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
}

// columns are a host's workers as they are in its hash: a JSON object of equally
// long lists, as a list of objects would say each name 64 times. Slot and State are
// there whenever another column is. A nil entry is not known.
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
}

// appendColumns appends the workers of slots, and a row for each slot without one.
func appendColumns(b []byte, slots []control.Slot) []byte {
	c := columns{
		Slot: []*int64{}, PID: []*int64{}, Generation: []*int64{}, State: []string{}, Connections: []*int64{}, Accepted: []*int64{},
		Requests: []*int64{}, Queue: []*int64{}, CPUPercent: []*float64{}, RSSBytes: []*int64{}, Restarts: []*int64{},
	}
	for _, s := range slots {
		if len(s.Workers) == 0 {
			c.add(s, nil, nil, s.State, control.Worker{})
		}
		for _, w := range s.Workers {
			c.add(s, new(int64(w.PID)), new(int64(w.Generation)), w.State, w)
		}
	}
	text, _ := json.Marshal(c)
	return append(b, text...)
}

func (c *columns) add(s control.Slot, pid, generation *int64, state string, w control.Worker) {
	c.Slot = append(c.Slot, new(int64(s.Slot)))
	c.PID = append(c.PID, pid)
	c.Generation = append(c.Generation, generation)
	c.State = append(c.State, state)
	c.Connections = append(c.Connections, w.Connections)
	c.Accepted = append(c.Accepted, w.Accepted)
	c.Requests = append(c.Requests, w.Requests)
	c.Queue = append(c.Queue, w.Queue)
	if w.CPUPercent != nil {
		w.CPUPercent = new(tenths(*w.CPUPercent))
	}
	c.CPUPercent = append(c.CPUPercent, w.CPUPercent)
	c.RSSBytes = append(c.RSSBytes, w.RSSBytes)
	c.Restarts = append(c.Restarts, new(int64(s.Restarts)))
}

// tenths rounds to one digit after the point.
func tenths(f float64) float64 { return math.Round(f*10) / 10 }

// parseWorkers makes rows of what appendColumns writes. Columns that it does not
// know, of a later forkd, are skipped. The error is short and printable.
func parseWorkers(text string) ([]Worker, error) {
	if len(text) > mostColumns {
		return nil, fmt.Errorf("%d bytes: at most %d are read", len(text), mostColumns)
	}
	var c columns
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
			return nil, fmt.Errorf("column %s cannot hold this: %s", wrong.Field, line(wrong.Value))
		}
		return nil, fmt.Errorf("no JSON object of columns: %s", line(err.Error()))
	}
	if len(c.Slot) > mostRows {
		return nil, fmt.Errorf("%d rows: at most %d are read", len(c.Slot), mostRows)
	}
	if err := c.check(); err != nil || c.Slot == nil {
		return nil, err
	}
	workers := make([]Worker, len(c.Slot))
	for i := range workers {
		workers[i] = Worker{
			Slot: *c.Slot[i], PID: at(c.PID, i), Generation: at(c.Generation, i), State: c.State[i],
			Connections: at(c.Connections, i), Accepted: at(c.Accepted, i), Requests: at(c.Requests, i), Queue: at(c.Queue, i),
			CPUPercent: at(c.CPUPercent, i), RSSBytes: at(c.RSSBytes, i), Restarts: at(c.Restarts, i),
		}
	}
	return workers, nil
}

// at is nil where there is no such column.
func at[T any](column []*T, row int) *T {
	if column == nil {
		return nil
	}
	return column[row]
}

// check returns an error for columns of different lengths, and for values out of
// bounds.
func (c *columns) check() error {
	n := len(c.Slot)
	if len(c.State) != n {
		return fmt.Errorf("column state has %d rows, slot has %d", len(c.State), n)
	}
	for _, column := range []struct {
		name string
		list []*int64
	}{
		{"slot", c.Slot},
		{"pid", c.PID},
		{"generation", c.Generation},
		{"connections", c.Connections},
		{"accepted", c.Accepted},
		{"requests", c.Requests},
		{"queue", c.Queue},
		{"rss_bytes", c.RSSBytes},
		{"restarts", c.Restarts},
	} {
		if err := checkColumn(column.name, column.list, n, mostNumber, "not a whole number from 0 to 2^53"); err != nil {
			return err
		}
	}
	if err := checkColumn("cpu_percent", c.CPUPercent, n, mostPercent, "no share of a processor"); err != nil {
		return err
	}
	for row, state := range c.State {
		if len(state) > mostWord || !printable(state) {
			return fmt.Errorf("column state, row %d: %s is not a state", row, short(state))
		}
		if c.Slot[row] == nil {
			return fmt.Errorf("column slot, row %d: there is none", row)
		}
	}
	return nil
}

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
