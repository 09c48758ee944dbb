package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
)

// commanded runs orders as they come from Redis, then waits a minute, and returns the events
// that answer them: "type generation reason".
func commanded(t *testing.T, batches ...[]control.Command) []string {
	t.Helper()
	var answers []string
	inBubble(t, &fakeEffects{}, Defaults(), func(l *loop) {
		b := &backend{loop: l}
		time.Sleep(time.Second) // until it is up
		for _, orders := range batches {
			for _, c := range orders {
				if err := b.Execute(context.WithoutCancel(t.Context()), c); err != nil {
					if _, refused := errors.AsType[*control.Error](err); !refused {
						t.Error(err)
					}
				}
			}
		}
		time.Sleep(time.Minute)
		page, err := b.Events(context.WithoutCancel(t.Context()), 0)
		if err != nil {
			t.Error(err)
		}
		for _, e := range page.Events {
			generation := 0
			if e.Generation != nil {
				generation = *e.Generation
			}
			if e.Command != "" || strings.HasPrefix(e.Type, "roll") {
				answers = append(answers, fmt.Sprintf("%s %d %s: %s", e.Type, generation, e.Command, e.Reason))
			}
		}
	})
	return answers
}

func scaleTo(id, workers string) control.Command {
	return control.Command{ID: id, Op: control.OpScale, Args: control.Args{Workers: workers}}
}

func TestOrdersInTheirOrder(t *testing.T) {
	got := commanded(t, []control.Command{
		scaleTo("a", "4"), scaleTo("b", "+1"), scaleTo("c", "2"), scaleTo("d", "2"), scaleTo("e", "-2"), scaleTo("f", "cpus"),
		{ID: "g", Op: control.OpDrain},
		{ID: "h", Op: control.OpDrain},
		{ID: "i", Op: control.OpResume},
		{ID: "j", Op: control.OpShed, Args: control.Args{Count: 3, Seconds: 5}},
		{ID: "k", Op: control.OpScale, Refused: "the order came too late"},
	})
	want := []string{
		"scaled 0 a: 2 to 4 workers: the fleet",
		"scaled 0 b: 4 to 5 workers: the fleet",
		"scaled 0 c: 5 to 2 workers: the fleet",
		"scaled 0 d: there are as many workers already",
		"refused 0 e: -2 would be 0 workers: an app has 1 to 1024",
		"scaled 0 f: 2 to 4 workers: the fleet",
		"draining 0 g: the fleet",
		"draining 0 h: the host drains already",
		"resumed 0 i: the fleet",
		"shed 0 j: connections to close: 0, over 5 s",
		"refused 0 k: the order came too late",
	}
	if !slices.Equal(got, want) {
		t.Errorf("answers\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A roll that was ordered has one beginning and one end, which answer the order. One
// that waits for another is answered at once; as many orders as wait for one roll
// are answered by it, and no more than a few may.
func TestRollsThatWereOrdered(t *testing.T) {
	roll := func(id string) control.Command { return control.Command{ID: id, Op: control.OpRoll} }
	got := commanded(t, []control.Command{roll("a")}, []control.Command{roll("b"), roll("c")})
	want := []string{
		"roll_started 3 b: after the roll that is under way, to generation 3",
		"roll_started 3 c: after the roll that is under way, to generation 3",
		"roll_started 2 a: from generation 1",
		"roll_done 2 a: ",
		"roll_started 3 b: from generation 2",
		"roll_done 3 b: ",
		"roll_done 3 c: ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("answers\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	got = commanded(t, []control.Command{{ID: "r", Op: control.OpReload}})
	want = []string{"roll_started 2 r: from generation 1, the configuration read anew", "roll_done 2 r: "}
	if !slices.Equal(got, want) {
		t.Errorf("answers\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var many []control.Command
	for i := range 100 {
		many = append(many, roll(fmt.Sprint(i)))
	}
	refused := slices.DeleteFunc(commanded(t, many), func(s string) bool { return !strings.HasPrefix(s, control.EventRefused) })
	if len(refused) != 100-1-maxRollWaiters {
		t.Errorf("%d of 100 orders to roll were refused, want all but one and the %d that wait for the next: %v", len(refused), maxRollWaiters, refused)
	}
}

func TestCommandIDsAreRememberedForAWhile(t *testing.T) {
	var s commandIDs
	for i := range 10 * len(s.ring) {
		if !s.add(strconv.Itoa(i)) || s.add(strconv.Itoa(i)) || s.add(strconv.Itoa(max(0, i-len(s.ring)+1))) {
			t.Fatal(i)
		}
	}
}
