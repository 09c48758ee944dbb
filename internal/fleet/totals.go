package fleet

import (
	"slices"
	"time"

	"github.com/forkd/forkd/internal/control"
)

// Fleet is an app on all its hosts, at a time.
type Fleet struct {
	App     string    `json:"app"`
	At      time.Time `json:"at"`      // by Redis's clock
	Problem string    `json:"problem"` // with the list of hosts; "" none. Printable
	Hosts   []Host    `json:"hosts"`   // by id
	Totals  Totals    `json:"totals"`
}

// Totals sums up the hosts that have not vanished and whose report has no Problem;
// Hosts, Vanished and Problems count all hosts. As in [control.Sum], a sum is not
// known if a part of it is not known, but for hosts that are starting.
type Totals struct {
	Hosts       int      `json:"hosts"`
	Serving     int      `json:"serving"` // in state ready, and not stale
	Stale       int      `json:"stale"`   // they count as what they said last
	Vanished    int      `json:"vanished"`
	Problems    int      `json:"problems"`
	Twins       int      `json:"twins"`
	Wanted      int64    `json:"wanted"` // workers
	Ready       int64    `json:"ready"`
	Connections *int64   `json:"connections"`
	Capacity    *int64   `json:"capacity"`
	Utilization *float64 `json:"utilization"` // percent; of those hosts whose connections and capacity are known
	Generations []int64  `json:"generations"` // each once, the oldest first
}

// SumUp makes the Totals of hosts.
func SumUp(hosts []Host) Totals {
	t := Totals{Hosts: len(hosts), Generations: []int64{}}
	var counted []*Host
	used, room := 0.0, 0.0
	for i := range hosts {
		h := &hosts[i]
		if h.Vanished {
			t.Vanished++
		}
		if h.Problem != "" {
			t.Problems++
		}
		if h.Vanished || h.Problem != "" {
			continue
		}
		switch {
		case h.Stale:
			t.Stale++
		case h.State == control.StateReady:
			t.Serving++
		}
		if h.Twin != "" {
			t.Twins++
		}
		t.Wanted = Sum(t.Wanted, ValueOr(h.Wanted, 0))
		t.Ready = Sum(t.Ready, ValueOr(h.Ready, 0))
		counted = append(counted, h)
		if h.Connections != nil && h.Capacity != nil {
			used, room = used+float64(*h.Connections), room+float64(*h.Capacity)
		}
		if h.Generation != nil {
			t.Generations = append(t.Generations, *h.Generation)
		}
	}
	slices.Sort(t.Generations)
	t.Generations = slices.Compact(t.Generations)
	t.Connections = total(counted, func(h *Host) *int64 { return h.Connections })
	t.Capacity = total(counted, func(h *Host) *int64 { return h.Capacity })
	if room > 0 {
		t.Utilization = new(100 * used / room)
	}
	return t
}

// ValueOr is a figure, or another number where it is not known.
func ValueOr(n *int64, other int64) int64 {
	if n == nil {
		return other
	}
	return *n
}

// Sum is a + b, two figures of reports, at most the largest number that JSON carries: 1,024
// reports of strangers would make an int64 negative.
func Sum(a, b int64) int64 { return min(a+b, mostNumber) }

// total sums up a figure of hosts. It is nil if a host that is not starting does not know
// it, or none does.
func total(hosts []*Host, figure func(*Host) *int64) *int64 {
	var sum int64
	known := false
	for _, h := range hosts {
		switch part := figure(h); {
		case part != nil:
			sum, known = Sum(sum, *part), true
		case h.State != control.StateStarting:
			return nil
		}
	}
	if !known {
		return nil
	}
	return &sum
}
