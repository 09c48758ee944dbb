package supervisor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// commanded runs orders as they come from Redis, then waits, and returns the events
// that answer them: "type generation reason".
func commanded(t *testing.T, wait time.Duration, batches ...[]fleet.Command) []string {
	t.Helper()
	var answers []string
	inBubble(t, &fakeEdge{}, Defaults(), func(l *loop) {
		h := &host{releases: map[int]*release{1: {cfg: Config{CPUs: 4}}, 2: {cfg: Config{CPUs: 4}}, 3: {cfg: Config{CPUs: 4}}}}
		s := &source{backend: &backend{loop: l, host: h, tell: l.glance}}
		time.Sleep(time.Second) // until it is up
		for _, orders := range batches {
			if err := s.Obey(context.WithoutCancel(t.Context()), orders); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(wait)
		page, err := s.Events(context.WithoutCancel(t.Context()), 0)
		if err != nil {
			t.Error(err)
		}
		for _, e := range page.Events {
			generation := 0
			if e.Generation != nil {
				generation = *e.Generation
			}
			if strings.HasPrefix(e.Reason, "command ") || strings.HasPrefix(e.Type, "roll") {
				answers = append(answers, fmt.Sprintf("%s %d %s", e.Type, generation, e.Reason))
			}
		}
	})
	return answers
}

func scaleTo(id, workers string) fleet.Command {
	return fleet.Command{ID: id, Op: fleet.OpScale, Args: fleet.Args{Workers: workers}}
}

func TestOrdersInTheirOrder(t *testing.T) {
	got := commanded(t, time.Minute, []fleet.Command{
		scaleTo("a", "4"), scaleTo("b", "+1"), scaleTo("c", "2"), scaleTo("d", "2"), scaleTo("e", "-2"), scaleTo("f", "cpus"),
		{ID: "g", Op: fleet.OpDrain},
		{ID: "h", Op: fleet.OpDrain},
		{ID: "i", Op: fleet.OpResume},
		{ID: "j", Op: fleet.OpShed, Args: fleet.Args{Count: 3, Seconds: 5}},
		{ID: "k", Op: fleet.OpScale, Refused: "the order came too late"},
	})
	want := []string{
		"scaled 0 command a: 2 to 4 workers: asked for",
		"scaled 0 command b: 4 to 5 workers: asked for",
		"scaled 0 command c: 5 to 2 workers: asked for",
		"scaled 0 command d: there are as many workers already",
		"refused 0 command e: -2 would be 0 workers: an app has 1 to 1024",
		"scaled 0 command f: 2 to 4 workers: asked for",
		"draining 0 command g: asked for",
		"draining 0 command h: the host drains already",
		"resumed 0 command i: asked for",
		"shed 0 command j: connections to close: 0, over 5 s",
		"refused 0 command k: the order came too late",
	}
	if !slices.Equal(got, want) {
		t.Errorf("answers\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A roll that was ordered has one beginning and one end, which answer the order. One
// that waits for another is answered at once; as many orders as wait for one roll
// are answered by it, and no more than a few may.
func TestRollsThatWereOrdered(t *testing.T) {
	roll := func(id string) fleet.Command { return fleet.Command{ID: id, Op: fleet.OpRoll} }
	got := commanded(t, time.Minute, []fleet.Command{roll("a")}, []fleet.Command{roll("b"), roll("c")})
	want := []string{
		"roll_started 3 command b: after the roll that is under way, to generation 3",
		"roll_started 3 command c: after the roll that is under way, to generation 3",
		"roll_started 2 command a: from generation 1",
		"roll_done 2 command a",
		"roll_started 3 command b: from generation 2",
		"roll_done 3 command b",
		"roll_done 3 command c",
	}
	if !slices.Equal(got, want) {
		t.Errorf("answers\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var many []fleet.Command
	for i := range 100 {
		many = append(many, roll(fmt.Sprint(i)))
	}
	refused := slices.DeleteFunc(commanded(t, time.Minute, many), func(s string) bool { return !strings.HasPrefix(s, control.EventRefused) })
	if len(refused) != 100-1-mostAsking {
		t.Errorf("%d of 100 orders to roll were refused, want all but one and the %d that wait for the next: %v", len(refused), mostAsking, refused)
	}
}
