package supervisor

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/forkd/forkd/internal/eventlog"
	"github.com/forkd/forkd/internal/pool"
)

// fakeEdge plays the world in virtual time: every worker starts, says that it is
// ready, and does what the test wants of it.
type fakeEdge struct {
	loop   *loop
	live   func(e *fakeEdge, id pool.ID) // a ready worker's life; nil: it stays
	drain  time.Duration                 // how long a drain takes; negative: for ever
	bad    string                        // why what is prepared can't run; "": it can
	starts []pool.ID
	kills  []pool.ID

	prepared []pool.Prepare
}

func (e *fakeEdge) worker(pool.ID) (none eventlog.WorkerInfo) { return none }

func (e *fakeEdge) inspect() {}

func (e *fakeEdge) after(d time.Duration, ev pool.Event) {
	go func() {
		time.Sleep(d)
		e.loop.tell(func() pool.Event { return ev })
	}()
}

func (e *fakeEdge) perform(action pool.Action) {
	switch a := action.(type) {
	case pool.Prepare:
		e.prepared = append(e.prepared, a)
		if e.bad != "" {
			e.after(time.Millisecond, pool.PrepareFailed{Generation: a.Generation, Reason: e.bad})
			return
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

// inBubble runs a loop of two slots in virtual time while f drives it, then
// stops it and returns how it quit.
func inBubble(t *testing.T, e *fakeEdge, cfg Config, f func(l *loop)) (quit pool.AppExited) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		l := newLoop(pool.New(cfg.core(), 2, 2), slog.New(slog.DiscardHandler))
		l.edge, e.loop = e, l
		ended := make(chan pool.AppExited)
		go func() { ended <- l.run(func() {}) }()
		f(l)
		l.tell(func() pool.Event { return pool.StopRequested{} })
		quit = <-ended
	})
	return quit
}

// request asks for a roll from outside of the loop.
func request(l *loop) *waiting {
	asked := make(chan *waiting, 1)
	l.tell(func() pool.Event {
		asked <- l.requestRoll(false)
		return nil
	})
	return <-asked
}

// end waits for a roll's.
func (w *waiting) end() outcome {
	<-w.ended
	return w.outcome
}

func TestCrashLoopStaysCheap(t *testing.T) {
	e := &fakeEdge{live: func(e *fakeEdge, id pool.ID) {
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
	e := &fakeEdge{drain: 10 * time.Second}
	inBubble(t, e, Defaults(), func(l *loop) {
		time.Sleep(time.Minute)
		var ends []*waiting
		for range 50 {
			ends = append(ends, request(l))
		}
		for i, end := range ends {
			o := end.end()
			want := 3
			if i == 0 {
				want = 2
			}
			if o.generation != want || o.result != pool.ResultDone {
				t.Fatalf("request %d: %+v, want generation %d done", i, o, want)
			}
		}
	})
	if len(e.starts) != 2+2*2 {
		t.Errorf("%d starts, want 6: the first generation and two rolls", len(e.starts))
	}
}

func TestStopAnswersWhoWaitsForARoll(t *testing.T) {
	e := &fakeEdge{drain: time.Second}
	inBubble(t, e, Defaults(), func(l *loop) {
		time.Sleep(time.Minute)
		first, second := request(l), request(l)
		l.tell(func() pool.Event { return pool.StopRequested{} })
		for _, w := range []*waiting{first, second} {
			if o := w.end(); o.result != pool.ResultCanceled {
				t.Errorf("got %+v, want canceled", o)
			}
		}
	})
}

// WINCH cancels the roll under way and the one that was promised after it: who
// waits for either is told.
func TestWithdrawalAnswersWhoWaitsForARoll(t *testing.T) {
	e := &fakeEdge{drain: time.Second}
	inBubble(t, e, Defaults(), func(l *loop) {
		time.Sleep(time.Minute)
		first, second := request(l), request(l)
		l.tell(func() pool.Event { l.signal(syscall.SIGWINCH); return nil })
		for _, w := range []*waiting{first, second} {
			if o := w.end(); o.result != pool.ResultCanceled || o.generation != w.generation {
				t.Errorf("got %+v, want generation %d canceled", o, w.generation)
			}
		}
		if o := request(l).end(); o.result != pool.ResultDone || o.generation != 4 {
			t.Errorf("got %+v, want generation 4 done", o)
		}
	})
}

func TestDrainEndsInKill(t *testing.T) {
	e := &fakeEdge{drain: -1}
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
	e := &fakeEdge{drain: -1}
	synctest.Test(t, func(t *testing.T) {
		l := newLoop(pool.New(Defaults().core(), 2, 2), slog.New(slog.DiscardHandler))
		l.edge, e.loop = e, l
		ended := make(chan pool.AppExited)
		go func() { ended <- l.run(func() {}) }()
		time.Sleep(time.Minute)
		send := func(sig syscall.Signal) { l.tell(func() pool.Event { l.signal(sig); return nil }) }
		send(syscall.SIGINT)
		send(syscall.SIGINT) // the same wish, delivered twice
		time.Sleep(sameWish - time.Millisecond)
		send(syscall.SIGTERM)
		synctest.Wait()
		if len(e.kills) > 0 {
			t.Errorf("killed %v: the signals came within %v", e.kills, sameWish)
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
	var told []string
	e := &fakeEdge{drain: time.Second}
	synctest.Test(t, func(*testing.T) {
		l := newLoop(pool.New(Defaults().core(), 2, 2), slog.New(slog.DiscardHandler))
		l.edge, e.loop = e, l
		l.manager.tell = func(state string) { told = append(told, state) }
		ended := make(chan pool.AppExited)
		go func() { ended <- l.run(func() {}) }()
		time.Sleep(time.Minute)
		l.tell(func() pool.Event { return pool.StopRequested{} })
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

// Fifty signals at once, of both kinds: the roll under way and one after it,
// which reads the file if any asked for that.
func TestAStormOfSignalsIsTwoRolls(t *testing.T) {
	e := &fakeEdge{drain: time.Second}
	inBubble(t, e, Defaults(), func(l *loop) {
		time.Sleep(time.Minute)
		for i := range 50 {
			sig := syscall.SIGUSR2
			if i == 20 {
				sig = syscall.SIGHUP
			}
			l.tell(func() pool.Event { l.signal(sig); return nil })
		}
		time.Sleep(time.Minute)
	})
	want := []pool.Prepare{{Generation: 2, From: 1}, {Generation: 3, From: 2, Reload: true}}
	if !slices.Equal(e.prepared, want) {
		t.Errorf("prepared %v, want %v", e.prepared, want)
	}
}

func TestSlotsBySignal(t *testing.T) {
	e := &fakeEdge{drain: time.Second}
	inBubble(t, e, Defaults(), func(l *loop) {
		time.Sleep(time.Minute)
		wanted := func(signals ...syscall.Signal) (n int) {
			l.tell(func() pool.Event {
				for _, sig := range signals {
					l.signal(sig)
				}
				return nil
			})
			time.Sleep(time.Minute)
			l.tell(func() pool.Event { n = len(l.pool.View().Slots); return nil })
			synctest.Wait()
			return n
		}
		if n := wanted(syscall.SIGTTIN, syscall.SIGTTIN); n != 4 {
			t.Errorf("%d slots after two TTIN, want 4", n)
		}
		if n := wanted(syscall.SIGTTOU, syscall.SIGTTOU, syscall.SIGTTOU, syscall.SIGTTOU, syscall.SIGTTOU); n != 1 {
			t.Errorf("%d slots after five TTOU, want 1", n)
		}
	})
}

func TestScaleWithinBounds(t *testing.T) {
	e := &fakeEdge{drain: time.Second}
	inBubble(t, e, Defaults(), func(l *loop) {
		l.afford = func(slots int) error {
			if slots > 100 {
				return errors.New("too few descriptors")
			}
			return nil
		}
		for n, refused := range map[int]bool{-1: true, 0: true, 1: false, 100: false, 101: true, MaxWorkers + 1: true} {
			l.tell(func() pool.Event {
				if err := l.scale(n); (err != nil) != refused {
					t.Errorf("scale(%d): %v", n, err)
				}
				return nil
			})
		}
		l.tell(func() pool.Event {
			l.step(pool.StopRequested{})
			if l.scale(3) == nil {
				t.Error("scaled while stopping")
			}
			return nil
		})
	})
}

func TestSystemdIsToldOfAReload(t *testing.T) {
	var told []string
	e := &fakeEdge{drain: time.Second}
	synctest.Test(t, func(*testing.T) {
		l := newLoop(pool.New(Defaults().core(), 2, 2), slog.New(slog.DiscardHandler))
		l.edge, e.loop = e, l
		l.manager.tell = func(state string) { told = append(told, state) }
		l.manager.alive = 10 * time.Second
		ended := make(chan pool.AppExited)
		go func() { ended <- l.run(func() {}) }()
		time.Sleep(time.Minute)
		l.tell(func() pool.Event { told = nil; l.signal(syscall.SIGHUP); return nil })
		time.Sleep(time.Minute)
		l.tell(func() pool.Event {
			e.bad = "shop.toml:3: unknown key"
			l.signal(syscall.SIGHUP)
			return nil
		})
		time.Sleep(5 * time.Second)
		l.tell(func() pool.Event { return pool.StopRequested{} })
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
	failed := "STATUS=ready: 2/2 workers ready, generation 2; the last reload failed, rolled back: shop.toml:3: unknown key; nothing has been changed"
	if !slices.ContainsFunc(told, func(s string) bool { return s == "READY=1\n"+failed }) {
		t.Errorf("told %q, want %q among it", told, failed)
	}
}
