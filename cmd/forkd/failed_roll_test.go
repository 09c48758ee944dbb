package main

import (
	"testing"

	"github.com/forkd/forkd/internal/control"
)

// TestFailureSaysWhatServes: after a paused roll slots have different generations, to
// which the next roll that fails goes back.
func TestFailureSaysWhatServes(t *testing.T) {
	t.Parallel()
	app := func(slots ...[]control.Worker) string {
		a := control.App{Generation: 1}
		for i, workers := range slots {
			a.Slots = append(a.Slots, control.Slot{Slot: i, Workers: workers})
		}
		return serving(&a)
	}
	ready := func(generation int) control.Worker {
		return control.Worker{Generation: generation, State: control.StateReady}
	}
	drains := control.Worker{Generation: 4, State: control.StateDraining}
	rolled := control.Rolled{Generation: 4, Result: "rolled_back", Error: "why", Fault: "program"}
	refused := control.Rolled{Generation: 4, Result: "rolled_back", Error: "why", Fault: control.FaultConfiguration}
	for _, c := range []struct {
		asked        control.Reload
		rolled       control.Rolled
		serves, want string
	}{
		{control.Reload{}, rolled, app([]control.Worker{ready(1), drains}, []control.Worker{ready(1)}), "the new program has failed: why; rolled back: generation 1 serves"},
		{control.Reload{}, rolled, app([]control.Worker{drains, ready(3)}, []control.Worker{ready(1)}), "the new program has failed: why; rolled back: generations 1 and 3 serve"},
		{control.Reload{}, rolled, app([]control.Worker{ready(2)}, []control.Worker{ready(1)}, []control.Worker{ready(3)}), "the new program has failed: why; rolled back: generations 1, 2 and 3 serve"},
		{control.Reload{}, rolled, app([]control.Worker{drains}), "the new program has failed: why; rolled back"},
		{control.Reload{}, refused, "", "the configuration was not taken: why"},
		{control.Reload{KeepConfig: true}, refused, "", "the roll has not begun: why"},
	} {
		if got := failure(c.asked, c.rolled, c.serves); got != c.want {
			t.Errorf("%+v, %+v, %q: %q, want %q", c.asked, c.rolled, c.serves, got, c.want)
		}
	}
}
