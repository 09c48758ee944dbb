package pool

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// A world simulates everything around the pool, with the random numbers of one seed:
// processes that start, hang, crash, leave children and ignore their stop signal, files
// that vanish, and requests.
type world struct {
	t         *testing.T
	seed      uint64
	dice      *rand.Rand
	pool      *Pool
	settings  Settings
	now       time.Time
	calm      bool // nothing ever fails
	silent    bool // nothing ends by itself, but releases may have a slot that is never ready
	pending   []pendingEvent
	alive     map[ID]bool // processes
	groups    map[ID]bool // leftovers
	dead      []ID
	prepared  map[int]bool
	timeouts  map[int]time.Duration // drain.timeout by generation
	scaled    bool
	unsettled bool         // more slots are wanted, or none: until all are ready again
	open      map[int]bool // slots whose sockets are open
	accept    map[int]bool // slots that get new connections
	quit      bool
	bad       map[int]bool // generations with such a slot
	failed    int          // the generation whose roll has failed, until the next roll; 0: none
	ready     []ID         // before the current step
	asked     map[ID]bool  // requests to replace a worker that wait for their answer; with abort
	ill       map[ID]bool  // workers that have stalled
}

type pendingEvent struct {
	at time.Time
	ev Event
}

const worlds = 1200

// traced is the seed whose world is printed; -1 for none.
const traced = 1<<64 - 1

func TestRandomWorlds(t *testing.T) {
	for seed := range uint64(worlds) {
		w := newWorld(t, seed)
		t.Cleanup(func() {
			if t.Failed() && !w.quit {
				t.Logf("seed %d, settings %+v", seed, w.settings)
			}
		})
		w.live()
	}
}

func newWorld(t *testing.T, seed uint64) *world {
	dice := rand.New(rand.NewPCG(seed, 1))
	pick := func(ds ...time.Duration) time.Duration { return ds[dice.IntN(len(ds))] }
	s := Settings{
		Ready: Ready{
			Mode:    []ReadyMode{ReadyAuto, ReadyAuto, ReadyListening, ReadyAccepting, ReadyNotify, ReadyDelay}[dice.IntN(6)],
			Delay:   pick(0, 100*time.Millisecond, time.Second),
			Timeout: pick(time.Second, 5*time.Second),
		},
		Restart: Restart{
			Condition:   []Condition{RestartAny, RestartOnFailure, RestartNone}[dice.IntN(3)],
			Delay:       pick(0, 100*time.Millisecond),
			MaxDelay:    pick(time.Second, 10*time.Second),
			MaxAttempts: dice.IntN(4),
			Window:      pick(0, 2*time.Second),
			CleanResets: dice.IntN(2) == 0,
			Prevent:     []int{7},
		},
		Update: Update{
			Parallelism:   dice.IntN(4),
			Delay:         pick(0, 500*time.Millisecond),
			Order:         []Order{StartFirst, StopFirst}[dice.IntN(2)],
			Monitor:       pick(0, time.Second),
			FailureAction: []FailureAction{Rollback, Pause}[dice.IntN(2)],
		},
		Drain: Drain{Timeout: pick(0, 2*time.Second, 5*time.Second), Delay: pick(0, 0, 3*time.Second)},
		Seen: Seen{
			Listeners: dice.IntN(2) == 0, Learns: dice.IntN(2) == 0, Listening: dice.IntN(2) == 0,
			Accepting: dice.IntN(2) == 0, Notifies: dice.IntN(4) == 0,
		},
		Health: Health{Stall: pick(0, 500*time.Millisecond, 2*time.Second), Abort: dice.IntN(4) == 0},
	}
	w := &world{
		t: t, seed: seed, dice: dice, settings: s, now: epoch, calm: dice.IntN(4) == 0, bad: map[int]bool{},
		alive: map[ID]bool{}, groups: map[ID]bool{}, prepared: map[int]bool{1: true},
		asked: map[ID]bool{}, ill: map[ID]bool{}, open: map[int]bool{}, accept: map[int]bool{}, timeouts: map[int]time.Duration{1: s.Drain.Timeout},
	}
	switch {
	case w.calm:
		w.settings.Update.Order = StartFirst
	case w.chance(20):
		w.silent = true
		w.settings.Ready.Mode = ReadyNotify
		w.settings.Update.FailureAction = Rollback
	}
	slots := 1 + dice.IntN(5)
	w.pool = New(w.settings, slots, slots)
	return w
}

func (w *world) chance(percent int) bool { return w.dice.IntN(100) < percent }

func (w *world) unlucky(percent int) bool { return !w.calm && !w.silent && w.chance(percent) }

func (w *world) within(d time.Duration) time.Duration {
	return time.Duration(w.dice.Int64N(int64(d) + 1))
}

func (w *world) later(d time.Duration, ev Event) {
	w.pending = append(w.pending, pendingEvent{w.now.Add(d), ev})
}

// live runs the world until AppExited, which must come within a bounded time after a
// stop at a random time.
func (w *world) live() {
	stop := w.within(60 * time.Second)
	for range w.dice.IntN(4) {
		w.later(w.within(stop), RollRequested{})
	}
	for range w.dice.IntN(4) {
		w.later(w.within(stop), ScaleRequested{Slots: w.dice.IntN(7)})
	}
	if w.chance(20) {
		w.later(w.within(stop), StandbyRequested{})
		w.later(w.within(stop), RollRequested{Reload: true})
	}
	if w.chance(20) {
		w.later(w.within(stop), HostDrainRequested{Draining: w.chance(70)})
	}
	if w.chance(20) {
		w.later(w.within(stop), Inherited{ID: ID{0, 0, 1}, Deadline: epoch.Add(w.within(stop)), Stop: w.chance(50)})
	}
	w.later(stop, StopRequested{Now: w.chance(20)})
	w.step(Began{Fallback: w.chance(30)})
	for steps := 0; !w.quit; steps++ {
		if steps > 5000 || w.now.Sub(epoch) > 10*time.Minute {
			w.t.Fatalf("no end in sight: %d steps, %s", steps, w.now.Sub(epoch))
		}
		ev := w.next()
		w.step(ev)
		if steps%2 == 0 { // it costs half of the test
			w.stale()
		}
	}
	if len(w.asked) > 0 {
		w.t.Fatalf("quit without an answer to %v", w.asked)
	}
	if len(w.alive)+len(w.groups) > 0 {
		w.t.Fatalf("quit with %v and groups %v alive", w.alive, w.groups)
	}
}

// next takes the earliest of the pending events and the pool's own deadline.
func (w *world) next() Event {
	slices.SortStableFunc(w.pending, func(a, b pendingEvent) int { return a.at.Compare(b.at) })
	tick := w.pool.Next()
	if !tick.IsZero() && (len(w.pending) == 0 || tick.Before(w.pending[0].at)) {
		w.now = tick
		return Ticked{}
	}
	if len(w.pending) == 0 {
		w.t.Fatalf("at %s nothing will ever happen again: %+v", w.now.Sub(epoch), w.pool.View())
	}
	first := w.pending[0]
	w.pending = w.pending[1:]
	w.now = first.at
	return first.ev
}

func (w *world) step(ev Event) {
	switch ev := ev.(type) {
	case Exited:
		if !w.alive[ev.ID] {
			return // it was killed before it could end by itself
		}
		w.exit(ev.ID)
		if ev.Leftovers {
			w.groups[ev.ID] = true
		}
	case StartFailed:
		w.exit(ev.ID)
	case GroupEnded:
		delete(w.groups, ev.ID)
	case Inherited:
		w.groups[ev.ID] = true
	case StandbyRequested:
		w.unsettled = true
	case ReplaceRequested:
		if _, worker := w.pool.find(ev.ID); worker != nil {
			w.asked[ev.ID] = w.asked[ev.ID] || ev.Abort
		}
	}
	w.ready = w.ready[:0]
	w.pool.workers(func(s *Slot, worker *Worker) {
		if exited, ok := ev.(Exited); worker.State == StateReady && !s.leaving.asked && (!ok || exited.ID != worker.ID) {
			w.ready = append(w.ready, worker.ID)
		}
	})
	trace := w.seed == traced
	if trace {
		fmt.Printf("%s %#v\n", w.now.Sub(epoch), ev)
	}
	for _, a := range w.pool.Step(w.now, ev) {
		if trace {
			fmt.Println("   ", describe(a))
		}
		w.perform(a)
	}
	w.check()
}

func (w *world) exit(id ID) {
	delete(w.alive, id)
	w.dead = append(w.dead, id)
}

func (w *world) perform(a Action) {
	switch a := a.(type) {
	case Prepare:
		w.failed = 0
		w.bad[a.Generation] = w.silent && w.chance(50)
		w.prepared[a.Generation] = true
		if w.unlucky(10) {
			w.later(w.within(time.Millisecond), PrepareFailed{a.Generation, "gone"})
		} else {
			w.later(w.within(time.Millisecond), w.configuration(a))
		}
	case Forget:
		delete(w.prepared, a.Generation)
	case CheckRelease:
		lost := ""
		if !w.silent && w.chance(30) {
			lost = "overwritten"
		}
		w.later(w.within(time.Millisecond), ReleaseChecked{a.Generation, lost})
	case Start:
		w.start(a.ID)
	case Retire:
		w.mustLive(a, a.ID)
		if a.Abort && !w.asked[a.ID] && (!w.ill[a.ID] || !w.settings.Health.Abort) {
			w.t.Fatalf("%s gets SIGABRT, and nobody has asked for it", a.ID)
		}
		if !w.unlucky(20) {
			w.later(w.within(w.timeouts[a.ID.Generation]), Exited{ID: a.ID, Exit: Exit{Words: "exit status 0"}})
		}
	case Kill:
		if w.groups[a.ID] {
			w.later(w.within(time.Millisecond), GroupEnded{a.ID})
			return
		}
		w.mustLive(a, a.ID)
		w.later(w.within(time.Millisecond), Exited{ID: a.ID, Exit: Exit{Code: -1, Signal: 9, Words: "killed by SIGKILL"}})
	case WorkerStalled:
		w.ill[a.ID] = true
	case Replaced:
		if _, asked := w.asked[a.ID]; !asked && !w.ill[a.ID] {
			w.t.Fatalf("%s: nobody has asked for it", describe(a))
		}
		delete(w.asked, a.ID)
		if _, worker := w.pool.find(a.ID); a.Err == "" && worker != nil && worker.serves() {
			w.t.Fatalf("%s: it serves", describe(a))
		}
	case StopGroup:
		if w.chance(50) {
			w.later(w.within(time.Second), GroupEnded{a.ID})
		}
	case Steer:
		clear(w.accept)
		for slot, generation := range a.Serving {
			w.accept[slot] = generation != 0 && w.open[slot]
		}
	case Leave:
		if w.accept[a.Slot] {
			w.t.Fatalf("slot %d leaves and gets connections", a.Slot)
		}
		if w.calm || w.chance(80) {
			w.later(w.within(2*time.Second), Emptied{a.Slot, a.Turn})
		}
	case CloseSlot:
		w.open[a.Slot], w.accept[a.Slot] = false, false
	case Released:
		if w.alive[a.ID] || w.groups[a.ID] {
			w.t.Fatalf("released %s: it lives", a.ID)
		}
	case RollProgress:
		if a.Phase == RollChecking {
			w.failed = a.To
		}
	case RollEnded:
		if a.Result == ResultRolledBack || a.Result == ResultFailed || a.Result == ResultPaused {
			w.failed = a.Generation
		}
	case AppUp:
		w.unsettled = w.unsettled || a.Ready < a.Wanted
	case Scaled:
		w.unsettled, w.scaled = true, true
	case AppExited:
		w.quit = true
	}
}

func (w *world) start(id ID) {
	if !w.prepared[id.Generation] {
		w.t.Fatalf("start %s: its generation is not prepared, or forgotten", id)
	}
	w.alive[id] = true
	w.open[id.Slot] = true
	at := w.within(20 * time.Millisecond)
	if w.unlucky(10) {
		w.later(at, StartFailed{ID: id, Reason: "no memory", Final: w.chance(20)})
		return
	}
	w.later(at, Started{id})
	if w.chance(50) {
		at += w.within(20 * time.Millisecond)
		w.later(at, HelloReceived{id})
	}
	for _, ev := range []Event{Listened{ID: id}, Accepting{id}, Notified{id}} {
		if w.calm || w.silent && !w.neverReady(id) || !w.silent && w.chance(80) {
			at += w.within(200 * time.Millisecond)
			w.later(at, ev)
		}
	}
	if w.chance(30) {
		w.later(at+w.within(2*time.Second), Idled{id})
	}
	w.ail(id)
	if w.unlucky(40) {
		at += w.within(10 * time.Second)
		w.later(at, Exited{
			ID:        id,
			Exit:      Exit{Code: w.dice.IntN(2), Words: "exit"},
			Leftovers: w.chance(30),
		})
	}
}

// ail has a worker stall, and somebody ask to replace it. It may have ended by then.
func (w *world) ail(id ID) {
	if w.chance(20) {
		at := w.within(10 * time.Second)
		w.later(at, Stalled{id})
		if w.chance(50) {
			w.later(at+w.within(5*time.Second), Accepted{id})
		}
	}
	for w.chance(10) {
		w.later(w.within(10*time.Second), ReplaceRequested{id, CauseRequested, "asked for", w.chance(20)})
	}
}

// neverReady reports whether a worker is in the bad slot of a bad release.
func (w *world) neverReady(id ID) bool {
	return w.bad[id.Generation] && id.Slot == id.Generation%len(w.pool.slots)
}

// configuration is that of a new generation: the same as before, or, read again, with
// other times and perhaps another number of slots.
func (w *world) configuration(a Prepare) Prepared {
	s, slots := w.settings, w.pool.configured
	if a.Reload {
		s.Drain.Timeout = w.within(5 * time.Second)
		s.Ready.Delay = w.within(time.Second)
		slots = 1 + w.dice.IntN(5)
	}
	w.timeouts[a.Generation] = s.Drain.Timeout
	return Prepared{a.Generation, s, slots}
}

func (w *world) mustLive(a Action, id ID) {
	if !w.alive[id] {
		w.t.Fatalf("at %s: %s: there is no such process", w.now.Sub(epoch), describe(a))
	}
}

// stale sends an event of a dead worker, which must change nothing.
func (w *world) stale() {
	if len(w.dead) == 0 || w.quit {
		return
	}
	id := w.dead[w.dice.IntN(len(w.dead))]
	events := []Event{
		Started{id},
		StartFailed{ID: id, Reason: "late", Final: true},
		HelloReceived{id},
		Notified{id},
		Listened{ID: id},
		Listened{ID: id, Elsewhere: "[::1]:8000"},
		Accepting{id},
		Idled{id},
		Stalled{id},
		Accepted{id},
		ReplaceRequested{ID: id, Why: "late"},
		Exited{ID: id, Leftovers: true},
		Prepared{Generation: 99},
		Emptied{0, 99},
		ScaleRequested{Slots: w.pool.wanted},
		ScaleRequested{Slots: -1},
		ReleaseChecked{99, ""},
		GroupEnded{ID{id.Slot, id.Generation, id.Attempt + 1000}},
	}
	ev := events[w.dice.IntN(len(events))]
	before, next := w.pool.View(), w.pool.Next()
	actions := w.pool.Step(w.now, ev)
	if len(actions) > 0 || !reflect.DeepEqual(before, w.pool.View()) || next != w.pool.Next() {
		w.t.Fatalf("stale %#v changed the pool: %v", ev, actions)
	}
}
