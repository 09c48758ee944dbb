package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/fleet"
)

// simulate runs a simulation until what it makes is as a test wants it, and
// returns what it said last.
func simulate(t *testing.T, at fleet.Settings, o fleet.Simulation, goes func(fleet.Simulated) error) fleet.Simulated {
	t.Helper()
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	var last fleet.Simulated
	said := errors.New("it has said nothing")
	err := fleet.Simulate(ctx, at, o, func(p fleet.Simulated) {
		last = p
		if said != nil && !p.Ended {
			if said = goes(p); said == nil {
				cancel()
			}
		}
	})
	if err != nil || said != nil || !last.Ended {
		t.Fatalf("%v; %v; %+v", err, said, last)
	}
	return last
}

// A simulated fleet looks like one, moves, and leaves nothing behind.
func TestSimulate(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	reader := open(t, fleet.Settings{URL: "redis://" + s.address})
	at := fleet.Settings{URL: "redis://" + s.address, Interval: 200 * time.Millisecond, TTL: time.Minute}
	s.do("SET", "another", "key")
	var before fleet.Fleet
	last := simulate(t, at, fleet.Simulation{App: "shop", Hosts: 100, Workers: 3}, func(p fleet.Simulated) error {
		f := look(t, reader)
		if got := f.Totals; got.Serving != 100 || got.Problems != 0 || got.Wanted != 300 || got.Connections == nil || *got.Capacity != 30_000 {
			return fmt.Errorf("%+v", got)
		}
		first := before.Hosts == nil
		if first {
			before = f
			return errors.New("it is not seen to move yet")
		}
		for i, h := range f.Hosts {
			was := before.Hosts[i]
			if h.ID != fmt.Sprintf("sim-%05d", i) || h.Boot != was.Boot || *h.Seq <= *was.Seq || *h.Accepted < *was.Accepted || len(h.Workers) != 3 {
				return fmt.Errorf("%+v after %+v", h, was)
			}
		}
		if p.Hosts != 100 || p.Failed != 0 || p.PerSecond == 0 || p.Median == 0 || p.BeatBytes == 0 || p.UsedMemory == nil || p.Wanted != 500 {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	if last.Beats < 200 || last.Received == 0 {
		t.Errorf("%+v", last)
	}
	if got := texts(t, s.do("KEYS", "*")); len(got) != 1 || got[0] != "another" {
		t.Errorf("it leaves %q", got)
	}
}

// A real fleet is not touched.
func TestSimulateOfOthers(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	r := startReport(t, newApp("b1", 1), fleet.Settings{URL: "redis://" + s.address})
	r.seen(t, s)
	err := fleet.Simulate(bounded(t), fleet.Settings{URL: "redis://" + s.address}, fleet.Simulation{App: "shop"}, func(fleet.Simulated) { t.Error("it runs") })
	if err == nil || !strings.Contains(err.Error(), `shop has a host "web-1" that is not simulated`) {
		t.Error(err)
	}
}

// The numbers that can be asked for.
func TestSimulateBounds(t *testing.T) {
	t.Parallel()
	for _, o := range []fleet.Simulation{
		{App: "sh op"},
		{App: "shop", Hosts: -1},
		{App: "shop", Hosts: fleet.MostSimulatedHosts + 1},
		{App: "shop", Workers: -1},
		{App: "shop", Workers: fleet.MostSimulatedWorkers + 1},
		{App: "shop", Connections: 65},
	} {
		err := fleet.Simulate(bounded(t), fleet.Settings{URL: "redis://127.0.0.1:1"}, o, nil)
		if err == nil || strings.Contains(err.Error(), "refused") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if err := fleet.Simulate(bounded(t), fleet.Settings{URL: "redis://127.0.0.1:1"}, fleet.Simulation{App: "shop"}, nil); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}

// Once reports once; what it made expires, the stream too.
func TestSimulateOnce(t *testing.T) {
	t.Parallel()
	s, at := filled(t, 1000, 4)
	if f := look(t, open(t, at)); f.Totals.Serving != 1000 || f.Totals.Ready != 4000 || f.Totals.Problems != 0 {
		t.Errorf("%+v", f.Totals)
	}
	if n := s.do("XLEN", "forkd:{shop}:events"); n != int64(1000) {
		t.Errorf("%v events", n)
	}
	for _, key := range []string{"forkd:{shop}:events", "forkd:{shop}:host:sim-00999"} {
		if left, _ := s.do("PTTL", key).(int64); left <= 0 {
			t.Errorf("%s stays for ever", key)
		}
	}
}

// Redis forgets the script, everything, and then answers no more: the simulation
// goes on, and counts what fails.
func TestSimulateTrouble(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	reader := open(t, fleet.Settings{URL: "redis://" + s.address})
	at := fleet.Settings{URL: "redis://" + s.address, Interval: 200 * time.Millisecond}
	trouble := 0
	simulate(t, at, fleet.Simulation{App: "shop", Hosts: 50, Workers: 2, Connections: 2, FullSpeed: true}, func(p fleet.Simulated) error {
		switch trouble++; {
		case trouble == 1:
			s.do("SCRIPT", "FLUSH")
			s.do("FLUSHALL")
		case trouble == 2:
			if f := look(t, reader); f.Totals.Serving != 50 || p.Failed > 0 {
				return fmt.Errorf("%+v, %+v", f.Totals, p)
			}
			s.pause()
		case p.Failed > 0 && s.state() == 'T':
			s.resume()
		}
		if p.Failed == 0 || p.PerSecond < 10 || s.state() == 'T' {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	if got := texts(t, s.do("KEYS", "*")); len(got) != 0 {
		t.Errorf("it leaves %q", got)
	}
}

// On a Cluster, every connection finds the one node that the app belongs to.
func TestSimulateCluster(t *testing.T) {
	t.Parallel()
	g := startSix(t)
	at := fleet.Settings{URL: g.url(), Interval: 200 * time.Millisecond, TTL: time.Minute}
	reader := open(t, at)
	simulate(t, at, fleet.Simulation{App: "shop", Hosts: 40, Workers: 2}, func(p fleet.Simulated) error {
		if f := look(t, reader); f.Totals.Serving != 40 || f.Totals.Problems != 0 || p.UsedMemory == nil || p.Failed > 0 {
			return fmt.Errorf("%+v, %+v", f.Totals, p)
		}
		return nil
	})
	for _, s := range g.nodes {
		if got := texts(t, s.do("KEYS", "*")); len(got) != 0 && s.info("replication", "role") == "master" {
			t.Errorf("it leaves %q", got)
		}
	}
}
