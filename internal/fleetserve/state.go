package fleetserve

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// The bounds of what viewers are shown.
const (
	mostHosts   = 5000    // of an app; of more, the first by id
	mostCells   = 256     // workers of a host
	allCells    = 160_000 // workers of all hosts
	fleetPoints = 360     // of the fleet's history
	hostPoints  = 60      // of a host's
)

// unknownPoint stands in a history for a figure that is not known.
const unknownPoint = -1

// state is what is known of an app at a time. It does not change, so that all requests
// can use it at once; what it has in common with the state before is shared.
type state struct {
	app     string
	version uint64 // from 1; 0: nothing has been read yet
	fleet   fleet.Fleet
	advice  advise.Advice
	read    time.Time // of fleet and advice, by this host's clock; zero: never
	err     error     // why the last read has failed
	since   time.Time // of err
	noEvent error     // why events can't be read

	events  []fleet.Entry      // the latest, the oldest first
	rows    []row              // by id
	history history            // of the fleet
	hosts   map[string][]int64 // connections of each host, the oldest first

	delta []byte                    // an SSE frame with what is new since the version before
	full  func() []byte             // an SSE frame with everything
	list  func(workers bool) []byte // an element of /v1/fleet

	targets func() []byte // elements of /v1/sd

	newer chan struct{} // closed when there is a newer state
	gone  bool          // the app is not watched any more
}

type row struct {
	id   string
	json []byte
}

// history is figures of the fleet, a list for each, of equal length, the oldest first.
type history struct {
	Every       float64 `json:"every"` // seconds between two
	Connections []int64 `json:"connections"`
	Capacity    []int64 `json:"capacity"`
	Hosts       []int64 `json:"hosts"`
}

// next is the state that follows from a reading. Each sample-th is a point of the
// history.
func (s *state) next(r reading, limits limits, c common) *state {
	n := &state{
		app: s.app, version: s.version + 1, fleet: s.fleet, advice: s.advice, read: s.read, err: r.err, since: s.since, noEvent: s.noEvent,
		events: s.events, rows: s.rows, history: s.history, hosts: s.hosts, newer: make(chan struct{}),
	}
	var events []fleet.Entry
	for _, e := range r.news {
		if n.noEvent = e.err; e.ID != "" {
			events = append(events, e.Entry)
		}
	}
	n.events = latest(s.events, mostEvents, events...)
	f := frame{common: c, events: events}
	if r.err != nil {
		if s.err == nil || s.version == 0 {
			n.since = r.at
		}
	} else {
		n.fleet, n.advice, n.read = r.fleet, r.advice, r.at
		f.rows, f.gone = n.setRows(s.rows)
		if (n.version-1)%uint64(limits.sample) == 0 {
			f.sampled = true
			n.sample((time.Duration(limits.sample) * limits.period).Seconds())
		}
	}
	n.delta = n.encode(f)
	n.full = sync.OnceValue(func() []byte {
		return n.encode(frame{common: c, full: true, events: n.events, rows: n.rows})
	})
	n.list, n.targets = n.lists(), n.groups()
	return n
}

// setRows makes the rows of the fleet's hosts. Those that have not changed are the ones
// of before. It returns the others, and the ids that are no more.
func (s *state) setRows(before []row) (changed []row, gone []string) {
	hosts := s.fleet.Hosts[:min(len(s.fleet.Hosts), mostHosts)]
	cells := min(mostCells, allCells/max(1, len(hosts)))
	s.rows = make([]row, 0, len(hosts))
	for i := range hosts {
		h := &hosts[i]
		for len(before) > 0 && before[0].id < h.ID {
			gone, before = append(gone, before[0].id), before[1:]
		}
		text := control.MustMarshal(rowOf(h, cells))
		if len(before) > 0 && before[0].id == h.ID {
			old := before[0]
			before = before[1:]
			if bytes.Equal(old.json, text) {
				s.rows = append(s.rows, old)
				continue
			}
		}
		r := row{h.ID, text}
		s.rows, changed = append(s.rows, r), append(changed, r)
	}
	for _, old := range before {
		gone = append(gone, old.id)
	}
	return changed, gone
}

func (s *state) sample(every float64) {
	t := &s.fleet.Totals
	s.history = history{
		Every:       every,
		Connections: latest(s.history.Connections, fleetPoints, fleet.ValueOr(t.Connections, unknownPoint)),
		Capacity:    latest(s.history.Capacity, fleetPoints, fleet.ValueOr(t.Capacity, unknownPoint)),
		Hosts:       latest(s.history.Hosts, fleetPoints, int64(t.Hosts-t.Vanished)),
	}
	before := s.hosts
	s.hosts = make(map[string][]int64, len(s.rows))
	for i := range s.rows {
		h := &s.fleet.Hosts[i]
		s.hosts[h.ID] = latest(before[h.ID], hostPoints, fleet.ValueOr(h.Connections, unknownPoint))
	}
}

func (s *state) host(id string) (h *fleet.Host, ok bool) {
	i, ok := slices.BinarySearchFunc(s.fleet.Hosts, id, func(h fleet.Host, id string) int { return strings.Compare(h.ID, id) })
	if !ok {
		return nil, false
	}
	return &s.fleet.Hosts[i], true
}

// problem is why the figures are not those of now.
func (s *state) problem(l limits) error {
	if s.err == nil && time.Since(s.read) > l.period+2*l.read {
		return errNotRead
	}
	return s.err
}
