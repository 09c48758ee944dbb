package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/forkd/forkd/internal/fleet"
)

// reporting is a host of which everything is known.
func reporting(id string, generation int64) fleet.Host {
	return fleet.Host{
		ID: id, Boot: "b" + id, State: "ready", Generation: new(generation), Wanted: new(int64(64)), Ready: new(int64(64)),
		Connections: new(int64(12345)), Capacity: new(int64(20000)), Utilization: new(61.7), Requests: new(int64(123456789)),
		Restarts: new(int64(3)), CPUPercent: new(640.2), RSSBytes: new(int64(9_000_000_000)), Age: new(1.4), Interval: new(2.0),
	}
}

func fleetOf(hosts ...fleet.Host) fleet.Fleet {
	return fleet.Fleet{App: "shop", At: noon, Hosts: hosts, Totals: fleet.Totals{
		Hosts: len(hosts), Serving: len(hosts), Wanted: 64, Ready: 64,
		Connections: new(int64(12345)), Capacity: new(int64(20000)), Utilization: new(61.7), Generations: []int64{4},
	}}
}

func fleets() map[string]fleet.Fleet {
	good := fleetOf(reporting("ip-10-0-12-34.eu-central-1.compute.internal", 4), reporting("web-1", 4))
	good.Hosts[1].Workers = []fleet.Worker{
		{
			Slot: 0, PID: new(int64(4194303)), Generation: new(int64(4)), State: "ready", Connections: new(int64(12345)),
			Accepted: new(int64(5)), Requests: new(int64(123456789)), Queue: new(int64(0)), CPUPercent: new(99.7),
			RSSBytes: new(int64(129_000_000)), Restarts: new(int64(1234)),
		},
		{Slot: 1, State: "backoff"},
	}

	bare := fleetOf(fleet.Host{ID: "web-1", State: "starting"})
	bare.Totals = fleet.Totals{Hosts: 1}

	ailing := fleetOf(reporting("web-1", 3), reporting("web-2", 4), reporting("web-3", 4), fleet.Host{ID: "web-4", Vanished: true},
		reporting("web-5", 4), fleet.Host{ID: "\x1b]0;web\a\u202e-6", Problem: `calls itself "\x1b[2J"; connections "many" is not a whole number from 0 to 2^53`},
		reporting("web-7", 4))
	ailing.Hosts[1].Stale, ailing.Hosts[1].Age = true, new(12.2)
	ailing.Hosts[2].Twin = "b9"
	ailing.Hosts[2].State = "draining"
	ailing.Hosts[4].Connections, ailing.Hosts[4].Utilization = nil, nil
	ailing.Hosts[6].Utilization, ailing.Hosts[6].Age = new(9e17), new(1e300)
	ailing.Totals = fleet.Totals{
		Hosts: 7, Serving: 4, Stale: 1, Vanished: 1, Twins: 1, Problems: 2, Wanted: 320, Ready: 320, Connections: new(int64(49380)), Generations: []int64{3, 4},
	}
	ailing.Problem = "the list has 123456 hosts: only the 100000 that expire last are read \x1b[2J"
	return map[string]fleet.Fleet{"good": good, "bare": bare, "ailing": ailing}
}

func TestFleetTable(t *testing.T) {
	for name, f := range fleets() {
		t.Run(name, func(t *testing.T) {
			got := golden(t, filepath.Join("testdata", "fleet", name+".txt"), fleetTable(screen{width: 80}, &f, true))
			// Colours change nothing but the colour.
			colored := strings.Join(fleetTable(screen{width: 80, color: true}, &f, true), "\n") + "\n"
			if stripped := escapes.ReplaceAllString(colored, ""); stripped != got || stripped == colored {
				t.Errorf("with colours:\n%q", colored)
			}
			// Without a terminal nothing is cut, and a line is a host or what is said of it.
			whole := strings.Join(fleetTable(screen{}, &f, true), "\n")
			if strings.Contains(whole, "…") || strings.ContainsAny(whole, "\x1b\a\u202e") {
				t.Errorf("cut, or not clean:\n%q", whole)
			}
			for _, h := range f.Hosts {
				if !strings.Contains(whole, "\n"+sanitize(h.ID)+" ") {
					t.Errorf("%s is not there:\n%s", h.ID, whole)
				}
			}
		})
	}
}
