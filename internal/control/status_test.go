package control

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The names are a promise, and what is not known is null.
func TestStatusJSON(t *testing.T) {
	at := time.Date(2026, 11, 21, 6, 50, 0, 250e6, time.UTC)
	app := App{
		App: "shop", PID: 7, Version: "v1", StartedAt: at, Generation: 2, State: StateReady,
		Listeners: []Listener{{Name: "http", Address: "tcp://:8080", Mode: "reuseport", Balance: "hash", Source: "bound"}},
		Redis:     &Redis{State: RedisUp, Since: at, URL: "redis://h", Host: "web-1"},
		Roll:      &Roll{From: 1, To: 2, Phase: "rolling", Done: 1, Of: 2},
		Slots: []Slot{
			{Slot: 0, State: StateReady, Workers: []Worker{{PID: 8, Generation: 2, State: StateReady, StartedAt: at, ReadyAt: &at, Counted: "worker", Connections: new(int64(3))}}},
			{Slot: 1, State: "backoff", Restarts: 4, NextStartAt: &at, Reason: "killed by SIGKILL", LastExit: &LastExit{At: at, Signal: "SIGKILL", Reason: "killed by SIGKILL"}, Workers: []Worker{}},
		},
	}
	app.Leftovers = []Leftover{{PID: 9, State: StateDraining, KillAt: &at, Processes: 1, Reason: "left"}}
	app.Totals = Sum(app.Slots)
	got, err := json.Marshal(app)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"schema":0,"app":"shop","pid":7,"version":"v1","started_at":"2026-11-21T06:50:00.25Z","generation":2,"state":"ready","host_draining":false,"config":"",` +
		`"listeners":[{"name":"http","address":"tcp://:8080","mode":"reuseport","balance":"hash","source":"bound"}],` +
		`"roll":{"from":1,"to":2,"phase":"rolling","done":1,"of":2,"reason":""},"last_roll":null,"reload_error":null,"fallback":null,"directory_now":"","falls_back":false,"redis":{"state":"up","since":"2026-11-21T06:50:00.25Z","error":"","url":"redis://h","host":"web-1","twin":false},"slots":[` +
		`{"slot":0,"state":"ready","restarts":0,"next_start_at":null,"reason":"","last_exit":null,"workers":[` +
		`{"pid":8,"generation":2,"state":"ready","started_at":"2026-11-21T06:50:00.25Z","ready_at":"2026-11-21T06:50:00.25Z","counted":"worker","connections":3,"accepted":null,"requests":null,"refused":null,"moved_in":null,"moved_out":null,"requests_per_second":null,"queue":null,"cpu_percent":null,"stopped":false,"stalled":false,"rss_bytes":null}],"leaving":false,"moved":null},` +
		`{"slot":1,"state":"backoff","restarts":4,"next_start_at":"2026-11-21T06:50:00.25Z","reason":"killed by SIGKILL","last_exit":{"at":"2026-11-21T06:50:00.25Z","code":null,"signal":"SIGKILL","reason":"killed by SIGKILL"},"workers":[],"leaving":false,"moved":null}],"leftovers":[{"slot":null,"pid":9,"state":"draining","started_at":null,"kill_at":"2026-11-21T06:50:00.25Z","processes":1,"reason":"left"}],` +
		`"totals":{"wanted":2,"ready":1,"restarts":4,"connections":3,"accepted":null,"requests":null,"refused":null,"moved":null,"requests_per_second":null,"queue":null,"cpu_percent":null,"rss_bytes":null}}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestSumKnowsOnlyWhatAllKnow(t *testing.T) {
	worker := func(state string, connections *int64) Worker {
		return Worker{State: state, Connections: connections, Queue: new(int64(2))}
	}
	for name, test := range map[string]struct {
		workers []Worker
		want    *int64
	}{
		"none":                       {nil, new(int64(0))},
		"all known":                  {[]Worker{worker(StateDraining, new(int64(2))), worker(StateReady, new(int64(3)))}, new(int64(5))},
		"a ready one is not known":   {[]Worker{worker(StateReady, nil), worker(StateReady, new(int64(3)))}, nil},
		"a starting one serves none": {[]Worker{worker(StateReady, new(int64(3))), worker(StateStarting, nil)}, new(int64(3))},
	} {
		if diff := cmp.Diff(test.want, Sum([]Slot{{Workers: test.workers}}).Connections); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	refused := Sum([]Slot{{Workers: []Worker{{State: StateReady, Refused: new(int64(2))}, {State: StateReady, Refused: new(int64(3))}}}})
	if refused.Refused == nil || *refused.Refused != 5 {
		t.Errorf("refused: %v", refused.Refused)
	}
	two := Sum([]Slot{{Workers: []Worker{worker(StateDraining, nil), worker(StateReady, nil)}}})
	if two.Queue == nil || *two.Queue != 2 {
		t.Error("the queue of a slot with two workers is counted twice")
	}
}

func TestLeavingSlotsAreNotWanted(t *testing.T) {
	ready := Worker{State: StateReady, Connections: new(int64(3))}
	app := App{State: StateReady, HostDraining: true, Slots: []Slot{
		{Slot: 0, State: StateReady, Workers: []Worker{ready}},
		{Slot: 1, State: StateReady, Workers: []Worker{ready}, Leaving: true},
	}}
	app.Totals = Sum(app.Slots)
	if app.Totals.Wanted != 1 || app.Totals.Ready != 1 || *app.Totals.Connections != 6 || !app.AllReady() {
		t.Errorf("%+v", app.Totals)
	}
	for state, want := range map[string]bool{StateStarting: false, StateReady: true, StateDraining: true, StateStopping: false} {
		if app.State = state; app.AllReady() != want {
			t.Errorf("all ready while %s: %v", state, !want)
		}
	}
}
