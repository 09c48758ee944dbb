package pool

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// situation is a state of an app of one slot, the events that lead there, and the
// worker that further events are about.
type situation struct {
	name string
	like string // only what differs from this one is in the table
	id   ID
	path []Event
}

func situations() []situation {
	first, second, again := ID{0, 1, 1}, ID{0, 2, 2}, ID{0, 1, 2}
	prepared := Prepared{2, testSettings(), 1}
	ready := []Event{Began{}, Started{first}, Notified{first}}
	after := func(more ...Event) []Event { return slices.Concat(ready, more) }
	return []situation{
		{"starting, not running yet", "", first, []Event{Began{}}},
		{"starting", "", first, []Event{Began{}, Started{first}}},
		{"ready", "starting", first, ready},
		{"stalled", "ready", first, after(Stalled{first})},
		{"ready, its successor starting", "ready", first, after(ReplaceRequested{ID: first}, Started{again})},
		{"starting, to replace another", "starting", again, after(ReplaceRequested{ID: first}, Started{again})},
		{"draining, its successor ready", "", first, after(RollRequested{}, prepared, Started{second}, Notified{second})},
		{"draining, the app stops", "", first, after(StopRequested{})},
		{"killed, the app stops", "draining, the app stops", first, after(StopRequested{Now: true})},
		{"gone, others of its group live", "", first, []Event{Began{}, Exited{ID: first, Leftovers: true}}},
		{"backoff", "", ID{0, 1, 2}, []Event{Began{}, StartFailed{ID: first, Reason: "no"}, StartFailed{ID: ID{0, 1, 2}, Reason: "no"}}},
		{"exited (standby)", "backoff", first, after(StandbyRequested{}, Exited{ID: first})},
		{"ready, roll preparing", "ready", first, after(RollRequested{})},
		{"starting, roll rolling", "starting", second, after(RollRequested{}, prepared, Started{second})},
		{"ready, roll monitoring", "ready", second, after(RollRequested{}, prepared, Started{second}, Notified{second}, Exited{ID: first})},
		{"gone, roll checking", "backoff", second, after(RollRequested{}, prepared, Started{second}, Notified{second}, Exited{ID: first}, Exited{ID: second})},
	}
}

// play brings a new pool there, and returns the time of the last event.
func (s situation) play() (p *Pool, now time.Time) {
	p = New(testSettings(), 1, 1)
	for i, ev := range s.path {
		now = epoch.Add(time.Duration(i) * time.Millisecond)
		p.Step(now, ev)
	}
	return p, now
}

// row is an event by the name that it has in the table.
type row struct {
	name string
	ev   Event
}

func rows(id ID) []row {
	failure := Exit{Code: 1, Words: "exit status 1"}
	return []row{
		{"", Began{}},
		{"", Ticked{}},
		{"", Started{id}},
		{"", HelloReceived{id}},
		{"", Notified{id}},
		{"", Listened{ID: id}},
		{"elsewhere", Listened{ID: id, Elsewhere: "127.0.0.1:8000"}},
		{"", Accepting{id}},
		{"", Idled{id}},
		{"", Stalled{id}},
		{"", Accepted{id}},
		{"", ReplaceRequested{ID: id, Why: "asked for"}},
		{"", StartFailed{ID: id, Reason: "no"}},
		{"StartFailed{Final}", StartFailed{ID: id, Reason: "no", Final: true}},
		{"", Exited{ID: id, Exit: failure}},
		{"Exited{Leftovers}", Exited{ID: id, Exit: failure, Leftovers: true}},
		{"", GroupEnded{id}},
		{"", Prepared{2, testSettings(), 1}},
		{"", PrepareFailed{2, "no"}},
		{"", ReleaseChecked{1, ""}},
		{"ReleaseChecked{Lost}", ReleaseChecked{1, "no"}},
		{"", RollRequested{}},
		{"ScaleRequested{2}", ScaleRequested{Slots: 2}},
		{"", Emptied{1, 1}},
		{"", StandbyRequested{}},
		{"HostDrainRequested{true}", HostDrainRequested{Draining: true}},
		{"", Inherited{ID: ID{5, 0, 1}, Deadline: epoch.Add(time.Minute), Stop: true}},
		{"", StopRequested{}},
		{"StopRequested{Now}", StopRequested{Now: true}},
	}
}

func name(v any) string { return strings.TrimPrefix(fmt.Sprintf("%T", v), "pool.") }

// follows says what an event brings about. Ticked comes when it is asked for, the
// first time that does more than steer.
func (s situation) follows(ev Event) string {
	p, at := s.play()
	if _, tick := ev.(Ticked); !tick {
		return words(p.Step(at, ev))
	}
	for next := p.Next(); !next.IsZero(); next = p.Next() {
		if follows := words(p.Step(next, ev)); follows != "" && follows != "Steer" {
			return follows
		}
	}
	return ""
}

func words(actions []Action) string {
	var words []string
	for _, a := range actions {
		word := name(a)
		switch a := a.(type) {
		case WorkerStalled:
			word = "stalled"
			if !a.Stalled {
				word = "no longer stalled"
			}
		case Replaced:
			if a.Err != "" {
				word = "not replaced"
			}
		case StateChanged:
			word = "-> " + string(a.To)
			if a.From == a.To {
				continue
			}
		case RollProgress:
			word = "roll " + string(a.Phase)
		case RollEnded:
			word = "roll ended: " + string(a.Result)
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// table.txt is what Step does. go generate writes it.
func TestTable(t *testing.T) {
	const file = "table.txt"
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := table()
	if string(have) == want {
		return
	}
	if !*update {
		t.Fatalf("%s is stale: go generate ./internal/pool\n%s", file, want)
	}
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func table() string {
	follows := map[string]map[string]string{} // situation, event
	var events []string
	for _, s := range situations() {
		follows[s.name] = map[string]string{}
		events = nil
		for _, r := range rows(s.id) {
			event := cmp.Or(r.name, name(r.ev))
			events = append(events, event)
			follows[s.name][event] = s.follows(r.ev)
		}
	}
	everywhere := func(event string) bool {
		return !slices.ContainsFunc(situations(), func(s situation) bool { return follows[s.name][event] != follows["starting"][event] })
	}
	var text strings.Builder
	block(&text, "in every state", events, func(event string) string {
		if everywhere(event) {
			return follows["starting"][event]
		}
		return ""
	})
	for _, s := range situations() {
		title := s.name
		if s.like != "" {
			title += " (as " + s.like + ", but)"
		}
		block(&text, title, events, func(event string) string {
			what := follows[s.name][event]
			if everywhere(event) || what == follows[s.like][event] {
				return ""
			}
			return cmp.Or(what, "nothing")
		})
	}
	return text.String()
}

// block writes the events of one situation, those with the same consequence on one
// line; "" leaves an event out.
func block(text *strings.Builder, title string, events []string, follows func(event string) string) {
	if text.Len() > 0 {
		text.WriteByte('\n')
	}
	fmt.Fprintln(text, title)
	for i := 0; i < len(events); {
		what, from := follows(events[i]), i
		for i++; i < len(events) && follows(events[i]) == what; i++ {
		}
		if what != "" {
			fmt.Fprintf(text, "  %-40s  %s\n", strings.Join(events[from:i], ", "), what)
		}
	}
}

// No event may panic, whatever the state, nor ask for a tick in the past.
func TestEveryEventInEveryState(t *testing.T) {
	id := ID{0, 1, 1}
	more := []situation{
		{name: "not begun", id: id},
		{name: "scaled", id: id, path: []Event{Began{}, Started{id}, Notified{id}, ScaleRequested{Slots: 3}, ScaleRequested{Slots: 1}}},
		{name: "ended", id: id, path: []Event{Began{}, StartFailed{ID: id, Reason: "no"}, StopRequested{}}},
	}
	for _, s := range append(situations(), more...) {
		odd := []row{
			{"", ScaleRequested{Slots: 0}},
			{"", ScaleRequested{Slots: 1}},
			{"", Emptied{-1, 0}},
			{"", HostDrainRequested{Draining: false}},
			{"", Started{ID{-1, 0, 0}}},
			{"", Exited{ID: ID{7, 0, 0}}},
		}
		for _, r := range append(rows(s.id), odd...) {
			t.Run(s.name+"/"+name(r.ev), func(t *testing.T) {
				p, _ := s.play()
				at := epoch.Add(time.Second)
				p.Step(at, r.ev)
				if next := p.Next(); !next.IsZero() && !next.After(at) {
					t.Errorf("Next is %s, which is not later", next.Sub(epoch))
				}
			})
		}
	}
}
