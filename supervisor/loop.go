package supervisor

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/forkd/forkd/internal/pool"
)

// edge is where decisions meet the world. It is called by the loop only, must
// not block, and tells what came of an action through the loop's tell.
type edge interface {
	perform(action pool.Action)
	inspect()           // sets right what workers do to their sockets unasked
	pid(id pool.ID) int // 0: not known
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
	signals  <-chan os.Signal
	done     chan struct{} // closed when nobody listens any more

	terminal bool                   // somebody may be typing ^C
	waiting  map[int][]chan outcome // for the end of a generation's roll
	notify   func(state string)     // to systemd; never blocks
	told     string                 // what it was told last
	quit     *pool.Quit

	busyAt time.Time // when something happened last; zero: tidied up since
}

// outcome is how a roll went, for those who asked for it.
type outcome struct {
	generation int
	result     pool.Result
	why        string
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
		done:     make(chan struct{}),
		waiting:  map[int][]chan outcome{},
		notify:   func(string) {},
	}
}

// tell brings news to the loop, from any goroutine but its own. News after the
// end is dropped.
func (l *loop) tell(h happening) bool {
	select {
	case l.happened <- h:
		return true
	case <-l.done:
		return false
	}
}

// run turns until the pool has quit. Called once.
func (l *loop) run() pool.Quit {
	defer close(l.done)
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	round := time.NewTicker(inspectEvery)
	defer round.Stop()
	l.step(pool.Began{})
	for l.quit == nil {
		setAlarm(alarm, l.pool.Next())
		select {
		case h := <-l.happened:
			l.busyAt = time.Now()
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
		}
	}
	for generation := range l.waiting {
		l.answer(generation, canceled(generation))
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
		go debug.FreeOSMemory()
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

// step is the whole life of an event: decide, then do.
func (l *loop) step(ev pool.Event) {
	for _, action := range l.pool.Step(time.Now(), ev) {
		switch a := action.(type) {
		case pool.Moved:
			logMoved(l.log, a, l.edge.pid(a.ID))
		case pool.RollMoved:
			logRoll(l.log, a)
		case pool.RollEnded:
			l.rollEnded(a)
		case pool.Quit:
			l.quit = &a
		default:
			l.edge.perform(action)
		}
	}
	l.tellSystemd()
}

// requestRoll asks for a new generation and returns where its end will be told.
func (l *loop) requestRoll() (generation int, end <-chan outcome) {
	c := make(chan outcome, 1)
	l.step(pool.RollRequested{})
	generation = l.pool.Requested()
	if generation == 0 || l.quit != nil {
		c <- canceled(0)
		return 0, c
	}
	l.waiting[generation] = append(l.waiting[generation], c)
	return generation, c
}

func (l *loop) rollEnded(a pool.RollEnded) {
	logRollEnded(l.log, a)
	l.answer(a.Generation, outcome{a.Generation, a.Result, a.Why})
}

// answer tells those who wait for a generation. Each channel holds one outcome
// and is told once, so this does not block.
func (l *loop) answer(generation int, o outcome) {
	for _, c := range l.waiting[generation] {
		c <- o
	}
	delete(l.waiting, generation)
}

// tellSystemd says where the app stands, when that has changed: READY=1 once it
// is up, STOPPING=1 once it goes.
func (l *loop) tellSystemd() {
	v := l.pool.View()
	state := "STATUS=" + statusLine(v)
	switch {
	case v.State == "stopping":
		state = "STOPPING=1\n" + state
	case v.State == "ready":
		state = "READY=1\n" + state
	}
	if state != l.told {
		l.told = state
		l.notify(state)
	}
}

// statusLine is what systemctl status shows.
func statusLine(v pool.View) string {
	line := fmt.Sprintf("%d/%d workers ready, generation %d", v.Ready, v.Wanted, v.Generation)
	switch {
	case v.Roll != nil:
		return fmt.Sprintf("%s, %s to generation %d", line, v.Roll.Phase, v.Roll.To)
	case v.State == "ready" && v.Ready < v.Wanted:
		return "degraded: " + line
	default:
		return v.State + ": " + line
	}
}
