package supervisor

import (
	"log/slog"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/forkd/forkd/internal/pool"
)

// fakeEdge plays the world in virtual time: every worker starts, says that it is
// ready, and does what the test wants of it.
type fakeEdge struct {
	loop   *loop
	live   func(e *fakeEdge, id pool.ID) // a ready worker's life; nil: it stays
	drain  time.Duration                 // how long a drain takes; negative: for ever
	starts []pool.ID
	kills  []pool.ID
}

func (e *fakeEdge) pid(pool.ID) int { return 0 }

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
		e.after(time.Millisecond, pool.Prepared{Generation: a.Generation})
	case pool.CheckRelease:
		e.after(time.Millisecond, pool.ReleaseChecked{Generation: a.Generation})
	case pool.Start:
		e.starts = append(e.starts, a.ID)
		e.after(5*time.Millisecond, pool.Started{ID: a.ID})
		e.after(50*time.Millisecond, pool.Notified{ID: a.ID})
		if e.live != nil {
			e.live(e, a.ID)
		}
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
func inBubble(t *testing.T, e *fakeEdge, cfg Config, f func(l *loop)) (quit pool.Quit) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		l := newLoop(pool.New(settings(cfg), 2), slog.New(slog.DiscardHandler))
		l.edge, e.loop = e, l
		ended := make(chan pool.Quit)
		go func() { ended <- l.run() }()
		f(l)
		l.tell(func() pool.Event { return pool.StopRequested{} })
		quit = <-ended
	})
	return quit
}

// request asks for a roll from outside of the loop.
func request(l *loop) <-chan outcome {
	asked := make(chan (<-chan outcome), 1)
	l.tell(func() pool.Event {
		_, end := l.requestRoll()
		asked <- end
		return nil
	})
	return <-asked
}

func TestCrashLoopOfANightStaysCheap(t *testing.T) {
	e := &fakeEdge{live: func(e *fakeEdge, id pool.ID) {
		e.after(60*time.Millisecond, pool.Exited{ID: id, Exit: pool.Exit{Code: 1, Words: "exit status 1"}})
	}}
	cfg := Defaults()
	quit := inBubble(t, e, cfg, func(*loop) { time.Sleep(8 * time.Hour) })
	// Two slots, one start each 30 s, and the few of the way there.
	if most := 2 * (8*3600/30 + 20); len(e.starts) > most || len(e.starts) < most/2 {
		t.Errorf("%d starts in 8 hours, want at most %d and at least half of that", len(e.starts), most)
	}
	if quit.Code != 0 {
		t.Errorf("quit %+v, want 0: it was asked to stop", quit)
	}
}

func TestRequestsDuringARollBecomeOne(t *testing.T) {
	e := &fakeEdge{drain: 10 * time.Second}
	inBubble(t, e, Defaults(), func(l *loop) {
		time.Sleep(time.Minute)
		var ends []<-chan outcome
		for range 50 {
			ends = append(ends, request(l))
		}
		for i, end := range ends {
			o := <-end
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
		for _, end := range []<-chan outcome{first, second} {
			if o := <-end; o.result != pool.ResultCanceled {
				t.Errorf("got %+v, want canceled", o)
			}
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
		l := newLoop(pool.New(settings(Defaults()), 2), slog.New(slog.DiscardHandler))
		l.edge, e.loop = e, l
		ended := make(chan pool.Quit)
		go func() { ended <- l.run() }()
		time.Sleep(time.Minute)
		began := time.Now()
		for range 2 {
			l.tell(func() pool.Event { l.signal(syscall.SIGINT); return nil })
		}
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
		l := newLoop(pool.New(settings(Defaults()), 2), slog.New(slog.DiscardHandler))
		l.edge, e.loop = e, l
		l.notify = func(state string) { told = append(told, state) }
		ended := make(chan pool.Quit)
		go func() { ended <- l.run() }()
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
	if want := "STOPPING=1\nSTATUS=stopping: 0/2 workers ready, generation 1"; told[len(told)-1] != want {
		t.Errorf("told %q last, want %q", told[len(told)-1], want)
	}
}
