package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/state"
)

// What happened under a clock that was ahead, and what the master no longer remembers, is
// shown, each once.
func TestAddEarlier(t *testing.T) {
	exit := func(pid int, at time.Time) *control.Exit {
		return &control.Exit{PID: pid, LastExit: control.LastExit{At: at}}
	}
	ahead := noon.Add(24 * time.Hour)
	h := state.History{Records: []state.Record{
		{Boot: "before", Exit: exit(1, ahead)},
		{Boot: "before", Roll: &control.RollRecord{Generation: 2, EndedAt: ahead}},
		{Boot: "now", Exit: exit(2, noon)},
		{Boot: "now", Exit: exit(1, noon)},
		{Boot: "now", Roll: &control.RollRecord{Generation: 2, EndedAt: noon}},
	}}
	d := control.Description{
		History: []control.Exit{*exit(1, noon), *exit(3, noon)},
		Rolls:   []control.RollRecord{{Generation: 2, EndedAt: noon}},
	}
	addEarlier(&d, h)
	var got []int
	for _, e := range d.History {
		got = append(got, e.PID)
	}
	if diff := cmp.Diff([]int{1, 2, 1, 3}, got); diff != "" || len(d.Rolls) != 2 || !d.Rolls[0].EndedAt.Equal(ahead) {
		t.Errorf("%s %+v", diff, d.Rolls)
	}
}
