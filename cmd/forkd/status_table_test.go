package main

import (
	"flag"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
)

//nolint:gochecknoglobals // a flag has to be known before the tests run
var update = flag.Bool("update", false, "write the golden tables anew")

//nolint:gochecknoglobals // a constant, if times could be
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }

// busy is a worker of which everything is known, with figures as wide as they
// come.
func busy(pid, generation int, state string, up time.Duration) control.Worker {
	return control.Worker{
		PID: pid, Generation: generation, State: state, StartedAt: ago(up), ReadyAt: new(ago(up)), Counted: "worker",
		Connections: new(int64(12345)), Accepted: new(int64(9)), Requests: new(int64(9)),
		RequestsPerSecond: new(71600.5), Queue: new(int64(0)), CPUPercent: new(99.7), RSSBytes: new(int64(129_000_000)),
	}
}

// fresh is a worker of which nothing is known yet.
func fresh(pid, generation int, state string) control.Worker {
	return control.Worker{PID: pid, Generation: generation, State: state, StartedAt: ago(300 * time.Millisecond), Counted: "no"}
}

func shop(slots ...control.Slot) control.App {
	return control.App{
		App: "shop", PID: 4194303, Generation: 3, State: control.StateReady,
		Listeners: []control.Listener{{Name: "http", Address: "tcp://:8080", Mode: "reuseport", Balance: "hash"}},
		Slots:     slots, Totals: control.Sum(slots),
	}
}

func slot(k int, workers ...control.Worker) control.Slot {
	return control.Slot{Slot: k, State: workers[len(workers)-1].State, Workers: workers}
}

func tables() map[string]control.App {
	rolling := shop(
		slot(0, busy(4194200, 3, control.StateDraining, 50*time.Hour), busy(4194301, 4, control.StateReady, 4*time.Second)),
		slot(1, busy(4194201, 3, control.StateReady, 50*time.Hour), fresh(4194302, 4, control.StateStarting)),
		slot(2, busy(4194202, 3, control.StateReady, 90*time.Minute)),
	)
	rolling.Roll = &control.Roll{From: 3, To: 4, Phase: "rolling", Done: 1, Of: 3}
	rolling.Slots[2].Restarts = 1234

	ailing := shop(
		slot(0, busy(4194200, 3, control.StateReady, 12*time.Second)),
		control.Slot{
			Slot: 1, State: "failed", Restarts: 5, Reason: "gave up after 5 restarts in a row: exit status 3",
			LastExit: &control.LastExit{At: ago(time.Minute), Code: new(3), Reason: "exit status 3"},
		},
		control.Slot{
			Slot: 2, State: "backoff", Restarts: 3, NextStartAt: new(noon.Add(1600 * time.Millisecond)),
			LastExit: &control.LastExit{At: ago(time.Second), Signal: "SIGKILL", Reason: "killed by SIGKILL"},
		},
		control.Slot{
			Slot: 3, State: "backoff", Restarts: 1, NextStartAt: new(noon.Add(time.Minute)), Reason: "not \x1b[31mready within 30s, and what it said about it is longer than the screen is wide",
			Workers: []control.Worker{fresh(4194203, 2, control.StateDraining)},
		},
		control.Slot{Slot: 4, State: "exited", Reason: "exit status 0"},
	)
	ailing.LastRoll = &control.Rolled{Generation: 3, Result: "rolled_back", Error: "slot 1: exit status 3, 0.2s after it was ready"}

	wide := shop(slot(0, busy(4194200, 3, control.StateReady, time.Hour)))
	wide.Listeners = append(wide.Listeners,
		control.Listener{Name: "admin", Address: "tcp4://127.0.0.1:9000"},
		control.Listener{Name: "metrics", Address: "tcp6://[2001:db8::1234:5678]:9100"})
	wide.HostDraining = true
	wide.Redis = &control.Redis{State: "down", Since: ago(3 * time.Minute), Error: "dial tcp 10.0.0.1:6379: connection refused"}

	starting := shop(slot(0, fresh(812, 1, control.StateStarting)), control.Slot{Slot: 1, State: control.StateStarting})
	starting.State, starting.Generation = control.StateStarting, 1

	leaving := shop(
		slot(0, busy(4194200, 3, control.StateReady, time.Hour)),
		slot(1, busy(4194201, 3, control.StateReady, time.Hour)),
		slot(2, busy(4194202, 3, control.StateDraining, time.Hour)),
	)
	leaving.Slots[1].Leaving, leaving.Slots[2].Leaving = true, true
	leaving.Totals = control.Sum(leaving.Slots)
	leaving.ReloadError = &control.Failure{At: ago(3 * time.Minute), Error: "/etc/forkd/shop.toml:3:1: unknown key \"workes\": did you mean \x1b[2Jworkers?"}
	leaving.Leftovers = []control.Leftover{
		{Slot: new(1), PID: 4194100, State: control.StateDraining, StartedAt: new(ago(3 * time.Hour)), KillAt: new(noon.Add(25 * time.Second)), Processes: 1, Reason: "left by a master that was killed"},
		{PID: 99, State: "running", Processes: 20, Reason: "in sessions of their own"},
	}
	return map[string]control.App{"rolling": rolling, "ailing": ailing, "wide": wide, "starting": starting, "leaving": leaving}
}

var escapes = regexp.MustCompile("\x1b\\[[0-9]*m")

func TestTable(t *testing.T) {
	for name, app := range tables() {
		t.Run(name, func(t *testing.T) {
			got := golden(t, filepath.Join("testdata", "table", name+".txt"), statusTable(screen{width: 80}, "shop", &app, noon))
			// Colours change nothing but the colour.
			colored := strings.Join(statusTable(screen{width: 80, color: true}, "shop", &app, noon), "\n") + "\n"
			if stripped := escapes.ReplaceAllString(colored, ""); stripped != got || stripped == colored {
				t.Errorf("with colours:\n%q", colored)
			}
			// Without a terminal nothing is cut.
			if whole := strings.Join(statusTable(screen{}, "shop", &app, noon), "\n"); strings.Contains(whole, "…") {
				t.Errorf("cut:\n%s", whole)
			}
		})
	}
}

func TestCropLeavesRoomForTheLastLine(t *testing.T) {
	lines := []string{"1", "2", "3", "4", "5"}
	for height, want := range map[int]string{0: "1 2 3 4 5", 6: "1 2 3 4 5", 5: "1 2 3 2 more lines", 3: "1 4 more lines"} {
		if got := strings.Join(screen{height: height}.crop(lines), " "); got != want {
			t.Errorf("height %d: %s, want %s", height, got, want)
		}
	}
}

// A program that ends cleanly again and again may be no server: what to do is said.
func TestOneShot(t *testing.T) {
	const hint = `if it is meant to end: restart.condition = "on-failure"`
	next := noon.Add(time.Second)
	for _, test := range []struct {
		restarts, code int
		want           bool
	}{{endsOften, 0, true}, {endsOften - 1, 0, false}, {endsOften, 3, false}} {
		slot := control.Slot{State: "backoff", Restarts: test.restarts, NextStartAt: &next, LastExit: &control.LastExit{Code: &test.code, Reason: "exit status"}}
		if got := vacancy(&slot, noon); strings.Contains(got, hint) != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
}
