package eventlog

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
)

// The newest events are kept, and what has been missed is counted.
func TestAfter(t *testing.T) {
	l := New(time.Now(), nil)
	more := l.After(0).More
	for range maxEvents + 10 {
		l.Add(control.Event{Type: control.EventReady})
	}
	<-more
	for after, want := range map[uint64]struct{ missed, first, events int }{
		0: {10, 11, maxEvents}, 5: {5, 11, maxEvents}, 11: {0, 12, maxEvents - 1}, maxEvents + 10: {},
	} {
		page := l.After(after)
		first := 0
		if len(page.Events) > 0 {
			first = int(page.Events[0].Seq)
		}
		if int(page.Missed) != want.missed || first != want.first || len(page.Events) != want.events {
			t.Errorf("after %d: missed %d, %d events from %d on; want %+v", after, page.Missed, len(page.Events), first, want)
		}
	}
}

// An exit has what its worker was and wrote, and how long it was ready.
func TestExits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(time.Now(), nil)
		tail := new(output.Tail)
		id := pool.ID{Slot: 2, Generation: 3}
		worker := func(got pool.ID) WorkerInfo {
			if got != id {
				t.Errorf("asked for %v", got)
			}
			return WorkerInfo{PID: 77, Output: tail}
		}
		l.Record([]pool.Action{pool.StateChanged{ID: id, From: pool.StateStarting, To: pool.StateReady}}, worker)
		time.Sleep(5 * time.Second)
		l.Record([]pool.Action{
			pool.StateChanged{ID: id, From: pool.StateReady, To: pool.StateGone, Exit: pool.Exit{Code: 3}, Why: "exit status 3"},
			pool.Released{ID: id},
		}, worker)
		new(output.Log).Capture(io.NopCloser(strings.NewReader("oh no\n")), output.Source{}, tail)
		want := []control.Exit{{Slot: 2, Generation: 3, PID: 77, LastExit: control.LastExit{At: time.Now(), Code: new(3), Reason: "exit status 3"}, Crashed: true, ReadyFor: new(5.0), Output: []string{"oh no"}}}
		if diff := cmp.Diff(want, l.Exits()); diff != "" {
			t.Error(diff)
		}
		if e := l.After(1).Events; len(e) != 1 || e[0].Type != control.EventCrashed || *e[0].PID != 77 {
			t.Errorf("events: %+v", e)
		}
	})
}

// All events that are kept fit into one answer, whatever their reasons.
func TestReasonsAreBounded(t *testing.T) {
	l := New(time.Now(), nil)
	l.Add(control.Event{Type: control.EventRefused, Reason: strings.Repeat("ä", MaxReason)})
	if n := len(l.After(0).Events[0].Reason); n > MaxReason+len("...") {
		t.Errorf("%d bytes", n)
	}
}

// What becomes of a stalled worker is said of that worker, overload of the whole app.
func TestStalls(t *testing.T) {
	l := New(time.Now(), nil)
	id := pool.ID{Slot: 2, Generation: 3, Attempt: 4}
	l.Record([]pool.Action{
		pool.WorkerStalled{ID: id, Stalled: true, Why: "none accepted"},
		pool.WorkerStalled{ID: id, Why: "accepts"},
		pool.Overloaded{Stalled: 2, Of: 4},
		pool.Replaced{ID: id, Why: "asked for"},
		pool.Replaced{ID: id, Why: "asked for", Err: "exit status 1"},
	}, func(pool.ID) WorkerInfo { return WorkerInfo{PID: 77} })
	var got []string
	for _, e := range l.After(0).Events {
		text := e.Type + ": " + e.Reason
		if e.Slot != nil {
			text = fmt.Sprintf("%d.%d %d %s", *e.Slot, *e.Generation, *e.PID, text)
		}
		got = append(got, text)
	}
	want := []string{
		"2.3 77 stalled: none accepted", "2.3 77 recovered: accepts", "overloaded: 2 of 4 workers are stalled",
		"2.3 77 replaced: asked for", "2.3 77 replace_failed: asked for: exit status 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Every kind is counted from 0, and a roll or a replacement that came to nothing is no
// success.
func TestCounts(t *testing.T) {
	l := New(time.Now(), nil)
	if c := l.Counts(); len(c.Restarts) != len(pool.Causes()) || len(c.Rolls) != 5 || c.Restarts["oom"] != 0 {
		t.Errorf("at the start: %+v", c)
	}
	before := l.Counts()
	l.Record([]pool.Action{
		pool.Restarted{Cause: pool.CauseOOM},
		pool.Restarted{Cause: pool.CauseOOM},
		pool.Replaced{Cause: pool.CauseMaxAge},
		pool.Replaced{Cause: pool.CauseStalled, Err: "exit status 1"},
		pool.RollEnded{Generation: 2, Result: pool.ResultFailed},
		pool.RollEnded{Generation: 3, Result: pool.ResultDone},
	}, func(pool.ID) WorkerInfo { return WorkerInfo{} })
	c := l.Counts()
	if c.Restarts["oom"] != 2 || c.Restarts["max_age"] != 1 || c.Restarts["stalled"] != 0 || c.Rolls["failed"] != 1 || c.Rolls["done"] != 1 {
		t.Errorf("%+v", c)
	}
	if before.Restarts["oom"] != 0 {
		t.Error("who has asked sees it change")
	}
}
