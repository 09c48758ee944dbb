package fleetserve

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// synthetic is a fleet that is made up: at each read the connections of every host and
// worker are others. It is safe for concurrent use.
type synthetic struct {
	mu     sync.Mutex
	apps   []string
	hosts  []fleet.Host
	random *rand.Rand
	err    error // of what is read
	hung   bool  // who reads waits
	still  bool  // nothing changes by itself
	after  string
	sent   []string // "HOST OP"
	events []fleet.Entry
	more   chan struct{} // closed when there is another event

	remembered int // reads, as the memory counts them
}

const perHost = 10_000 // connections that a host can hold

// newSynthetic has hosts web-1 to web-N with so many workers each, of the app shop.
func newSynthetic(hosts, workers int) *synthetic {
	s := &synthetic{apps: []string{"shop"}, random: rand.New(rand.NewPCG(1, 2)), more: make(chan struct{})}
	for i := range hosts {
		h := fleet.Host{
			ID: fmt.Sprintf("web-%0*d", len(strconv.Itoa(hosts)), i+1), Boot: "b", State: control.StateReady, Version: "v1.0.0", Generation: new(int64(3)),
			Wanted: new(int64(workers)), Ready: new(int64(workers)), Capacity: new(int64(perHost)), Connections: new(int64), Queue: new(int64),
			Accepted: new(int64(90_000)), Requests: new(int64(2_400_000)), Refused: new(int64), Moved: new(int64), Restarts: new(int64),
			CPUPercent: new(120.0), RSSBytes: new(int64(400 << 20)), StartedAt: new(time.Now().Add(-26 * time.Hour)), Age: new(0.4), Interval: new(2.0),
			Metrics: ":9640", Addresses: []string{"tcp://:8080"}, Control: new(true),
		}
		for slot := range workers {
			h.Workers = append(h.Workers, fleet.Worker{
				Slot: int64(slot), PID: new(int64(4000 + slot)), Generation: new(int64(3)), State: control.StateReady,
				Connections: new(s.random.Int64N(perHost * 8 / 10 / int64(workers))), Queue: new(int64), Requests: new(int64(300_000)),
				CPUPercent: new(15.0), RSSBytes: new(int64(50 << 20)), Restarts: new(int64),
			})
		}
		s.hosts = append(s.hosts, h)
	}
	slices.SortFunc(s.hosts, func(a, b fleet.Host) int { return compare(a.ID, b.ID) })
	return s
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (s *synthetic) Apps(context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.apps), s.err
}

func (s *synthetic) Scale(ctx context.Context, app string, p advise.Policy, m *advise.Memory) (fleet.Fleet, advise.Advice, error) {
	s.mu.Lock()
	hung := s.hung
	s.mu.Unlock()
	if hung {
		<-ctx.Done()
		return fleet.Fleet{}, advise.Advice{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return fleet.Fleet{}, advise.Advice{}, s.err
	}
	m.Asked++
	s.remembered = m.Asked
	f := fleet.Fleet{App: app, At: time.Now().UTC()}
	if slices.Contains(s.apps, app) {
		f.Hosts = make([]fleet.Host, len(s.hosts))
		for i := range s.hosts {
			f.Hosts[i] = s.look(&s.hosts[i])
		}
	}
	t := &f.Totals
	t.Hosts, t.Generations = len(f.Hosts), []int64{3}
	t.Connections, t.Capacity = new(int64), new(int64)
	for i := range f.Hosts {
		h := &f.Hosts[i]
		if h.Vanished {
			t.Vanished++
			continue
		}
		t.Ready, t.Wanted = t.Ready+fleet.ValueOr(h.Ready, 0), t.Wanted+fleet.ValueOr(h.Wanted, 0)
		*t.Connections += fleet.ValueOr(h.Connections, 0)
		*t.Capacity += fleet.ValueOr(h.Capacity, 0)
	}
	a := advise.Advice{HostsWanted: t.Hosts, Hosts: t.Hosts, Connections: *t.Connections, Capacity: t.Capacity}
	if *t.Capacity > 0 {
		t.Utilization = new(100 * float64(*t.Connections) / float64(*t.Capacity))
		a.Utilization = t.Utilization
		a.Reason = fmt.Sprintf("%d connections are %.0f %% of %d, within %.0f to %.0f %%", *t.Connections, *t.Utilization, *t.Capacity, p.MinUtilization, p.MaxUtilization)
	}
	return f, a, nil
}

// look is a host as it is now; each worker's connections go up and down a little.
func (s *synthetic) look(h *fleet.Host) fleet.Host {
	now := *h
	if s.still || h.Vanished {
		return now
	}
	sum := int64(0)
	now.Workers = slices.Clone(h.Workers)
	for i := range now.Workers {
		w := &now.Workers[i]
		if w.Connections == nil {
			continue
		}
		step := max(4, *w.Connections/50)
		w.Connections = new(max(0, *w.Connections+s.random.Int64N(2*step+1)-step))
		sum += *w.Connections
	}
	now.Connections, now.Utilization = &sum, new(100*float64(sum)/perHost)
	h.Workers, h.Connections = now.Workers, now.Connections
	return now
}

func (s *synthetic) Events(ctx context.Context, app, after string, follow bool, each func(fleet.Entry) error) error {
	s.mu.Lock()
	s.after = after
	s.mu.Unlock()
	for done := 0; ; {
		s.mu.Lock()
		events, more, err := s.events[done:], s.more, s.err
		s.mu.Unlock()
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := each(e); err != nil {
				return err
			}
		}
		done += len(events)
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *synthetic) Send(_ context.Context, _, host string, c fleet.Command) error {
	s.change(func() { s.sent = append(s.sent, host+" "+c.Op) })
	switch c.Op {
	case control.OpDrain:
		s.host(host, func(h *fleet.Host) { h.State = control.StateDraining })
		s.happen(host, control.EventDraining, c.ID, "by a command")
	case control.OpResume:
		s.host(host, func(h *fleet.Host) { h.State = control.StateReady })
		s.happen(host, control.EventResumed, c.ID, "")
	default:
		return errors.New("its list is full")
	}
	return nil
}

// change changes the fleet.
func (s *synthetic) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// host changes a host.
func (s *synthetic) host(id string, f func(h *fleet.Host)) {
	s.change(func() {
		i := slices.IndexFunc(s.hosts, func(h fleet.Host) bool { return h.ID == id })
		s.hosts[i].Workers = slices.Clone(s.hosts[i].Workers)
		f(&s.hosts[i])
	})
}

// happen is an event.
func (s *synthetic) happen(host, kind, command, reason string) {
	s.change(func() {
		n := len(s.events) + 1
		s.events = append(s.events, fleet.Entry{ID: fmt.Sprintf("%d-0", n), Event: control.Event{
			Seq: uint64(n), Time: time.Now().UTC(), Host: host, Type: kind, Command: command, Reason: reason,
		}})
		close(s.more)
		s.more = make(chan struct{})
	})
}
