package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/forkd/forkd/internal/eventlog"
	"github.com/forkd/forkd/internal/pool"
)

// edge is where decisions meet the world. It is called by the loop only, must
// not block, and tells what came of an action through the loop's tell.
type edge interface {
	perform(action pool.Action)
	inspect() // sets right what workers do to their sockets unasked
	worker(id pool.ID) eventlog.WorkerInfo
}

// inspectEvery is how long a worker that shuts its socket down can keep clients
// out. A look costs a system call for each socket.
const inspectEvery = time.Second

// happening is a piece of news. It runs on the loop's goroutine, where it may
// touch what the loop owns, and returns what the pool is to know of it; nil for
// nothing.
type happening func() pool.Event

// loop owns the pool, and with it the app.
type loop struct {
	pool *pool.Pool
	edge edge
	log  *slog.Logger

	happened chan happening
	glanced  chan happening // looks that come all the time: no sign of life
	signals  <-chan os.Signal
	done     chan struct{} // closed when nobody listens any more

	terminal func() bool           // somebody may be typing ^C
	waiting  map[int]*waiting      // for the end of a generation's roll
	reopen   func()                // the files that the log goes to
	report   func()                // by the configuration that serves now
	afford   func(slots int) error // nil, or why there is no room for so many
	manager  manager
	quit     *pool.AppExited

	events   *eventlog.Log
	executed commandIDs // of the fleet

	stopping time.Time // when the stop was asked for; zero: it has not been
	busyAt   time.Time // when something happened last; zero: tidied up since
}

// outcome is how a roll went, for those who asked for it.
type outcome struct {
	generation int
	result     pool.Result
	why        string
}

// waiting is for those who wait for the end of a roll, however many.
type waiting struct {
	generation int           // 0: there will be none
	outcome    outcome       // not to be read before ended is closed
	ended      chan struct{} // closed by the loop
}

// canceled is the outcome of a roll that a stop has forestalled.
func canceled(generation int) outcome {
	return outcome{generation, pool.ResultCanceled, "the app is stopping"}
}

func newLoop(p *pool.Pool, log *slog.Logger) *loop {
	return &loop{
		pool:     p,
		log:      log,
		happened: make(chan happening),
		glanced:  make(chan happening),
		done:     make(chan struct{}),
		waiting:  map[int]*waiting{},
		terminal: func() bool { return false },
		reopen:   func() {},
		report:   func() {},
		afford:   func(int) error { return nil },
		manager:  manager{tell: func(string) {}, stop: func() time.Duration { return 0 }},

		events: eventlog.New(time.Now()),
	}
}

// tell brings news to the loop, from any goroutine but its own. News after the
// end is dropped.
func (l *loop) tell(h happening) bool { return l.bring(l.happened, h) }

// glance is tell for who looks several times a second, whatever happens.
func (l *loop) glance(h happening) bool { return l.bring(l.glanced, h) }

func (l *loop) bring(to chan<- happening, h happening) bool {
	select {
	case to <- h:
		return true
	case <-l.done:
		return false
	}
}

// run turns until the pool has quit; began is called when the pool has begun.
// Called once.
func (l *loop) run(began func()) pool.AppExited {
	defer close(l.done)
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	round := time.NewTicker(inspectEvery)
	defer round.Stop()
	watchdog := l.manager.watchdog()
	defer watchdog.Stop()
	l.step(pool.Began{})
	began()
	for l.quit == nil {
		setAlarm(alarm, l.pool.Next())
		select {
		case h := <-l.happened:
			l.busyAt = time.Now()
			if ev := h(); ev != nil {
				l.step(ev)
			}
		case h := <-l.glanced:
			if ev := h(); ev != nil {
				l.step(ev)
			}
		case sig := <-l.signals:
			l.signal(sig)
		case <-alarm.C:
			l.step(pool.Ticked{})
		case <-round.C:
			l.edge.inspect()
			l.tidy()
		case <-watchdog.C:
			l.manager.tell("WATCHDOG=1") // from here: it is this loop that must not hang
		}
	}
	for generation := range l.waiting {
		l.answer(canceled(generation))
	}
	return *l.quit
}

// quiet is how long nothing has to happen before memory is given back.
const quiet = 3 * time.Second

// tidy gives the memory of a burst (a start, a roll, many questions) back to the
// system once it is over: a master sits still for days.
func (l *loop) tidy() {
	if !l.busyAt.IsZero() && time.Since(l.busyAt) > quiet {
		l.busyAt = time.Time{}
		go giveBack()
	}
}

// setAlarm rings at a time, never for the zero time.
func setAlarm(alarm *time.Timer, at time.Time) {
	if at.IsZero() {
		alarm.Stop()
		return
	}
	alarm.Reset(time.Until(at))
}

// step is the whole life of an event: decide, tell, do.
func (l *loop) step(ev pool.Event) {
	actions := l.pool.Step(time.Now(), ev)
	logActions(l.log, actions, l.edge.worker)
	l.events.Record(actions, l.edge.worker)
	for _, action := range actions {
		l.edge.perform(action)
		if a, ended := action.(pool.RollEnded); ended {
			l.answer(outcome{a.Generation, a.Result, a.Why})
			l.report()
		}
		if a, exited := action.(pool.AppExited); exited {
			l.quit = &a
		}
	}
	if l.stopping.IsZero() && l.pool.Stopping() {
		l.stopping = time.Now()
	}
	l.manager.see(l.pool.Summary())
}

// requestRoll asks for a new generation, with reload of the configuration read
// anew, and returns where its end will be told: at once, for generation 0, where
// the app is stopping.
func (l *loop) requestRoll(reload bool) *waiting {
	l.step(pool.RollRequested{Reload: reload})
	generation := l.pool.Requested()
	if generation == 0 || l.quit != nil {
		w := &waiting{outcome: canceled(0), ended: make(chan struct{})}
		close(w.ended)
		return w
	}
	w := l.waiting[generation]
	if w == nil {
		w = &waiting{generation: generation, ended: make(chan struct{})}
		l.waiting[generation] = w
	}
	return w
}

// answer tells those who wait for a generation.
func (l *loop) answer(o outcome) {
	if w := l.waiting[o.generation]; w != nil {
		delete(l.waiting, o.generation)
		w.outcome = o
		close(w.ended)
	}
}

// scale asks for another number of slots. The error says why there can't be so
// many.
func (l *loop) scale(n int) error {
	switch {
	case n < 1:
		return errors.New("cannot scale: an app has at least one worker: forkd stop ends it")
	case n > MaxWorkers:
		return fmt.Errorf("cannot scale to %d workers: an app has at most %d", n, MaxWorkers)
	case l.pool.Stopping():
		return errors.New("cannot scale: the app is stopping")
	case l.pool.Standby():
		return errors.New("cannot scale: the app is in standby (SIGWINCH): forkd reload brings the workers back")
	}
	if err := l.afford(n); err != nil {
		return err
	}
	l.step(pool.ScaleRequested{Slots: n})
	return nil
}
