package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/eventlog"
	"github.com/forkd/forkd/internal/pool"
)

// fakeEffects plays the world in virtual time: every worker starts, says that it is
// ready, and does what the test wants of it.
type fakeEffects struct {
	*executor // what the loop asks for otherwise

	live  func(e *fakeEffects, id pool.ID) // a ready worker's life; nil: it stays
	drain time.Duration                    // how long a drain takes; negative: for ever
	bad   string                           // why what is prepared can't run; "": it can
	most  int                              // slots that there is room for; 0: any number

	signals  chan os.Signal
	terminal atomic.Bool
	starts   []pool.ID
	kills    []pool.ID
	prepared []pool.Prepare
}

func (e *fakeEffects) note(report) []pool.Event                  { return nil }
func (e *fakeEffects) inspect() []pool.Event                     { return nil }
func (e *fakeEffects) worker(pool.ID) (none eventlog.WorkerInfo) { return none }
func (e *fakeEffects) cpus(int) int                              { return 4 }
func (e *fakeEffects) stopTime() time.Duration                   { return 0 }
func (e *fakeEffects) hasTerminal() bool                         { return e.terminal.Load() }
func (e *fakeEffects) hasFallback() bool                         { return false }
func (e *fakeEffects) shed(int, time.Duration) int               { return 0 }

func (e *fakeEffects) afford(_, slots int) error {
	if e.most > 0 && slots > e.most {
		return errors.New("too few descriptors")
	}
	return nil
}

func (e *fakeEffects) after(d time.Duration, ev pool.Event) {
	go func() {
		time.Sleep(d)
		e.inbox.postFact(ev)
	}()
}

func (e *fakeEffects) perform(actions []pool.Action) {
	for _, action := range actions {
		switch a := action.(type) {
		case pool.Prepare:
			e.prepared = append(e.prepared, a)
			if e.bad != "" {
				e.after(time.Millisecond, pool.PrepareFailed{Generation: a.Generation, Reason: e.bad})
				continue
			}
			e.after(time.Millisecond, pool.Prepared{Generation: a.Generation, Settings: Defaults().core(), Slots: 2})
		case pool.CheckRelease:
			e.after(time.Millisecond, pool.ReleaseChecked{Generation: a.Generation})
		case pool.Start:
			e.starts = append(e.starts, a.ID)
			e.after(5*time.Millisecond, pool.Started{ID: a.ID})
			e.after(50*time.Millisecond, pool.Notified{ID: a.ID})
			if e.live != nil {
				e.live(e, a.ID)
			}
		case pool.Leave:
			e.after(100*time.Millisecond, pool.Emptied{Slot: a.Slot, Turn: a.Turn})
		case pool.Retire:
			if e.drain >= 0 {
				e.after(e.drain, pool.Exited{ID: a.ID, Exit: pool.Exit{Words: "exit status 0"}})
			}
		case pool.Kill:
			e.kills = append(e.kills, a.ID)
			e.after(time.Millisecond, pool.Exited{ID: a.ID, Exit: pool.Exit{Code: -1, Signal: 9, Words: "killed by SIGKILL"}})
		}
	}
}

// recorder is what a service manager has been told.
type recorder []string

func (r *recorder) Tell(state string) { *r = append(*r, state) }

// newFakeLoop is a loop of two slots.
func newFakeLoop(e *fakeEffects, cfg Config) *loop {
	l := newLoop(pool.New(cfg.core(), 2, 2), slog.New(slog.DiscardHandler), time.Now(), nil)
	l.manager.notifier = new(recorder)
	e.executor = &executor{inbox: l.inbox}
	l.executor = e
	e.signals = make(chan os.Signal)
	l.signals = e.signals
	return l
}

// inBubble runs a loop of two slots in virtual time while f drives it, then
// stops it and returns how it quit.
func inBubble(t *testing.T, e *fakeEffects, cfg Config, f func(l *loop)) (quit pool.AppExited) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		l := newFakeLoop(e, cfg)
		ended := make(chan pool.AppExited)
		go func() { ended <- l.run() }()
		f(l)
		l.postFact(pool.StopRequested{})
		quit = <-ended
	})
	return quit
}

// roll asks for a roll from outside of the loop.
func roll(l *loop) *rollWaiter {
	w, err := ask(context.Background(), l, func() (*rollWaiter, error) { return l.requestRoll(false), nil })
	if err != nil {
		panic(err)
	}
	return w
}

// end waits for a roll's.
func (w *rollWaiter) end() pool.RollEnded {
	<-w.ended
	return w.result
}

func TestCrashLoopStaysCheap(t *testing.T) {
	e := &fakeEffects{live: func(e *fakeEffects, id pool.ID) {
		e.after(60*time.Millisecond, pool.Exited{ID: id, Exit: pool.Exit{Code: 1, Words: "exit status 1"}})
	}}
	cfg := Defaults()
	quit := inBubble(t, e, cfg, func(*loop) { time.Sleep(time.Hour) })
	// Two slots, one start each 30 s, and the few of the way there.
	if most := 2 * (3600/30 + 20); len(e.starts) > most || len(e.starts) < most/2 {
		t.Errorf("%d starts in an hour, want at most %d and at least half of that", len(e.starts), most)
	}
	if quit.Code != 0 {
		t.Errorf("quit %+v, want 0: it was asked to stop", quit)
	}
}

func TestRequestsDuringARollBecomeOne(t *testing.T) {
	e := &fakeEffects{drain: 10 * time.Second}
	inBubble(t, e, Defaults(), func(l *loop) {
		time.Sleep(time.Minute)
		var ends []*rollWaiter
		for range 50 {
			ends = append(ends, roll(l))
		}
		for i, end := range ends {
			o := end.end()
			want := 3
			if i == 0 {
				want = 2
			}
			if o.Generation != want || o.Result != pool.ResultDone {
				t.Fatalf("request %d: %+v, want generation %d done", i, o, want)
			}
		}
	})
	if len(e.starts) != 2+2*2 {
		t.Errorf("%d starts, want 6: the first generation and two rolls", len(e.starts))
	}
}

func TestStopAnswersWhoWaitsForARoll(t *testing.T) {
	e := &fakeEffects{drain: time.Second}
	inBubble(t, e, Defaults(), func(l *loop) {
		time.Sleep(time.Minute)
		first, second := roll(l), roll(l)
		l.postFact(pool.StopRequested{})
		for _, w := range []*rollWaiter{first, second} {
			if o := w.end(); o.Result != pool.ResultCanceled {
				t.Errorf("got %+v, want canceled", o)
			}
		}
	})
}

// WINCH cancels the roll under way and the one that was promised after it: who
// waits for either is told.
func TestWithdrawalAnswersWhoWaitsForARoll(t *testing.T) {
	e := &fakeEffects{drain: time.Second}
	inBubble(t, e, Defaults(), func(l *loop) {
		time.Sleep(time.Minute)
		first, second := roll(l), roll(l)
		e.signals <- syscall.SIGWINCH
		for _, w := range []*rollWaiter{first, second} {
			if o := w.end(); o.Result != pool.ResultCanceled || o.Generation != w.generation {
				t.Errorf("got %+v, want generation %d canceled", o, w.generation)
			}
		}
		if o := roll(l).end(); o.Result != pool.ResultDone || o.Generation != 4 {
			t.Errorf("got %+v, want generation 4 done", o)
		}
	})
}

func TestDrainEndsInKill(t *testing.T) {
	e := &fakeEffects{drain: -1}
	began := time.Now()
	inBubble(t, e, Defaults(), func(*loop) { time.Sleep(time.Minute) })
	if len(e.kills) != 2 {
		t.Errorf("killed %v, want both workers", e.kills)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %s of real time", took)
	}
}

func TestSecondSignalStopsAtOnce(t *testing.T) {
	e := &fakeEffects{drain: -1}
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLoop(e, Defaults())
		ended := make(chan pool.AppExited)
		go func() { ended <- l.run() }()
		time.Sleep(time.Minute)
		send := func(sig syscall.Signal) { e.signals <- sig }
		send(syscall.SIGINT)
		send(syscall.SIGINT) // the same wish, delivered twice
		time.Sleep(sameRequest - time.Millisecond)
		send(syscall.SIGTERM)
		synctest.Wait()
		if len(e.kills) > 0 {
			t.Errorf("killed %v: the signals came within %v", e.kills, sameRequest)
		}
		time.Sleep(time.Millisecond)
		began := time.Now()
		send(syscall.SIGINT)
		<-ended
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %s, want at once", took)
		}
	})
}

func TestSystemdIsToldOnceUpAndOnceStopping(t *testing.T) {
	var told recorder
	e := &fakeEffects{drain: time.Second}
	synctest.Test(t, func(*testing.T) {
		l := newFakeLoop(e, Defaults())
		l.manager.notifier = &told
		ended := make(chan pool.AppExited)
		go func() { ended <- l.run() }()
		time.Sleep(time.Minute)
		l.postFact(pool.StopRequested{})
		<-ended
	})
	if len(told) < 3 || told[0] != "STATUS=starting: 0/2 workers ready, generation 1" {
		t.Fatalf("told %q", told)
	}
	if want := "READY=1\nSTATUS=ready: 2/2 workers ready, generation 1"; told[1] != want && told[2] != want {
		t.Errorf("told %q, want %q", told, want)
	}
	// More time is asked for after STOPPING=1, which sets systemd's own limit.
	want := []string{"STOPPING=1\nSTATUS=stopping: 0/2 workers ready, generation 1", "EXTEND_TIMEOUT_USEC=0"}
	if last := told[len(told)-2:]; !slices.Equal(last, want) {
		t.Errorf("told %q last, want %q", last, want)
	}
}

// While no worker gets ready, and when the app ends for that, systemctl status says why.
func TestSystemdIsToldWhyNothingServes(t *testing.T) {
	var told recorder
	e := &fakeEffects{drain: time.Second, live: func(e *fakeEffects, id pool.ID) {
		e.after(10*time.Millisecond, pool.Exited{ID: id, Exit: pool.Exit{Code: 7, Words: "exit status 7"}})
	}}
	cfg := Defaults()
	cfg.Restart.MaxAttempts = 1
	synctest.Test(t, func(*testing.T) {
		l := newFakeLoop(e, cfg)
		l.manager.notifier = &told
		l.run()
		time.Sleep(time.Second) // what is under way ends
	})
	for _, want := range []string{"starting: 0/2 workers ready, generation 1; exit status 7", "stopping: 0/2 workers ready, generation 1; all workers have ended for good: slot 0: gave up after"} {
		if !slices.ContainsFunc(told, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("told %q, want %q among it", told, want)
		}
	}
}

// Fifty signals at once, of both kinds: the roll under way and one after it,
// which reads the file if any asked for that.
func TestAStormOfSignalsIsTwoRolls(t *testing.T) {
	e := &fakeEffects{drain: time.Second}
	inBubble(t, e, Defaults(), func(l *loop) {
		time.Sleep(time.Minute)
		for i := range 50 {
			sig := syscall.SIGUSR2
			if i == 20 {
				sig = syscall.SIGHUP
			}
			e.signals <- sig
		}
		time.Sleep(time.Minute)
	})
	want := []pool.Prepare{{Generation: 2, From: 1}, {Generation: 3, From: 2, Reload: true}}
	if !slices.Equal(e.prepared, want) {
		t.Errorf("prepared %v, want %v", e.prepared, want)
	}
}

func TestSlotsBySignal(t *testing.T) {
	e := &fakeEffects{drain: time.Second}
	inBubble(t, e, Defaults(), func(l *loop) {
		time.Sleep(time.Minute)
		wanted := func(signals ...syscall.Signal) (n int) {
			for _, sig := range signals {
				e.signals <- sig
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			return len(l.pool.View().Slots)
		}
		if n := wanted(syscall.SIGTTIN, syscall.SIGTTIN); n != 4 {
			t.Errorf("%d slots after two TTIN, want 4", n)
		}
		if n := wanted(syscall.SIGTTOU, syscall.SIGTTOU, syscall.SIGTTOU, syscall.SIGTTOU, syscall.SIGTTOU); n != 1 {
			t.Errorf("%d slots after five TTOU, want 1", n)
		}
		var why []string
		for _, e := range l.events.After(0).Events {
			if e.Type == control.EventScaled {
				why = append(why, e.Reason)
			}
		}
		if diff := cmp.Diff([]string{
			"2 to 3 workers: SIGTTIN", "3 to 4 workers: SIGTTIN",
			"4 to 3 workers: SIGTTOU", "3 to 2 workers: SIGTTOU", "2 to 1 workers: SIGTTOU",
		}, why); diff != "" {
			t.Error(diff)
		}
	})
}

// A worker that can't be replaced: the answer says what failed, as that of a roll does.
func TestReplacementFails(t *testing.T) {
	e := &fakeEffects{live: func(e *fakeEffects, id pool.ID) {
		if id.Attempt == 2 {
			e.after(10*time.Millisecond, pool.Exited{ID: id, Exit: pool.Exit{Code: 1, Words: "exit status 1"}})
		}
	}}
	inBubble(t, e, Defaults(), func(l *loop) {
		time.Sleep(time.Minute)
		w, err := ask(context.Background(), l, func() (*rollWaiter, error) { return l.requestReplacement(1) })
		if err != nil {
			panic(err)
		}
		want := control.Rolled{Generation: 1, Result: string(pool.ResultFailed), Error: "its successor failed: exit status 1", Fault: "program", Slot: new(1)}
		if diff := cmp.Diff(want, rolled(w.end())); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Minute)
	})
}

func TestScaleWithinBounds(t *testing.T) {
	e := &fakeEffects{drain: time.Second, most: 100}
	inBubble(t, e, Defaults(), func(l *loop) {
		scale := func(to control.Scale) error {
			synctest.Wait() // the loop waits for messages
			_, err := l.scale(to, "scale")
			return err
		}
		for to, refused := range map[control.Scale]bool{"-1024": true, "0": true, "1": false, "100": false, "101": true, "+1024": true, "1025": true} {
			if err := scale(to); (err != nil) != refused {
				t.Errorf("scale to %s: %v", to, err)
			}
		}
		l.postFact(pool.StopRequested{})
		if scale("3") == nil {
			t.Error("scaled while stopping")
		}
	})
}

// A terminal that closes reloads nothing, though the kernel and the shell send SIGHUP for it,
// soon after or before the loss is noticed. Later ones are somebody's, as are all elsewhere.
func TestHangUp(t *testing.T) {
	for _, c := range []struct {
		before, after bool // there is a terminal
		late, apart   time.Duration
		rolls         int
	}{
		{true, false, 0, 0, 0},
		{true, false, 0, hangUpTime / 2, 0},
		{true, false, inspectInterval, inspectInterval / 2, 0},
		{true, false, 0, hangUpTime, 1},
		{true, false, hangUpTime + inspectInterval, 0, 2}, // disown: nobody has sent one
		{true, true, 0, 0, 2},
		{false, false, 0, 0, 2},
	} {
		e := &fakeEffects{drain: time.Second}
		e.terminal.Store(c.before)
		var said int
		inBubble(t, e, Defaults(), func(l *loop) {
			time.Sleep(time.Minute)
			e.terminal.Store(c.after)
			time.Sleep(c.late)
			e.signals <- syscall.SIGHUP
			time.Sleep(c.apart)
			e.signals <- syscall.SIGHUP
			time.Sleep(time.Minute)
			synctest.Wait()
			for _, ev := range l.events.After(0).Events {
				if ev.Type == control.EventTerminalClosed {
					said++
				}
			}
		})
		want := 0
		if c.before && !c.after {
			want = 1
		}
		if len(e.prepared) != c.rolls || said != want {
			t.Errorf("%+v: %d reloads, said %d times", c, len(e.prepared), said)
		}
	}
}

func TestSystemdIsToldOfAReload(t *testing.T) {
	var told recorder
	e := &fakeEffects{drain: time.Second}
	synctest.Test(t, func(*testing.T) {
		l := newFakeLoop(e, Defaults())
		l.manager.notifier = &told
		l.manager.alive = 10 * time.Second
		ended := make(chan pool.AppExited)
		go func() { ended <- l.run() }()
		time.Sleep(time.Minute)
		synctest.Wait()
		told = nil
		e.signals <- syscall.SIGHUP
		time.Sleep(time.Minute)
		synctest.Wait()
		e.bad = "shop.toml:3: unknown key\nMAINPID=1" // such as a worker's file name may hold
		e.signals <- syscall.SIGHUP
		time.Sleep(5 * time.Second)
		l.postFact(pool.StopRequested{})
		<-ended
	})
	var order []string
	alive := 0
	for _, state := range told {
		first, _, _ := strings.Cut(state, "\n")
		key, _, _ := strings.Cut(first, "=")
		switch key {
		case "WATCHDOG":
			alive++
		case "STATUS", "EXTEND_TIMEOUT_USEC":
		default:
			order = append(order, first)
		}
	}
	if alive < 6 || alive > 8 {
		t.Errorf("WATCHDOG=1 came %d times in 65 seconds, want one in 10", alive)
	}
	want := []string{"RELOADING=1", "READY=1", "RELOADING=1", "READY=1", "STOPPING=1"}
	if !slices.Equal(order, want) {
		t.Errorf("told %q, want the order %q", told, want)
	}
	failed := "STATUS=ready: 2/2 workers ready, generation 2; the last reload failed, refused: shop.toml:3: unknown key MAINPID=1; nothing has been changed"
	if !slices.ContainsFunc(told, func(s string) bool { return s == "READY=1\n"+failed }) {
		t.Errorf("told %q, want %q among it", told, failed)
	}
}
