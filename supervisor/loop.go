package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/eventlog"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/state"
	"github.com/forkd/forkd/ipc"
)

// effects is what the loop does to the world: the executor, or a fake in tests. The
// loop alone calls it. No method blocks; what takes time ends by a message.
type effects interface {
	perform(actions []pool.Action)
	note(r report) []pool.Event
	inspect() []pool.Event // once in inspectInterval: repairs what workers changed

	worker(id pool.ID) eventlog.WorkerInfo
	afford(generation, slots int) error // nil, or why there can't be so many slots
	stopTime() time.Duration            // how long a stop may take, all in all
	hasTerminal() bool                  // somebody may be typing ^C
	hasFallback() bool                  // another release served last, and could be run
	notice() string                     // for the service manager; "": none
	reopenLogs()

	summary(v pool.View) control.Summary
	snapshot(v pool.View) snapshot
	description(v pool.View) control.Description
	cpus(generation int) int
	send(slot *int, message ipc.App) (workers int, err error)
	shed(connections int, over time.Duration) (asked int)
}

const (
	// inspectInterval is how long a worker that shuts its socket down can keep
	// clients out. An inspection costs a system call for each socket.
	inspectInterval = time.Second
	// Memory is trimmed when no message has come for idleAfter, and each
	// trimInterval: inspections use some of it, and within a minute so much that the
	// heap is collected, which reads 2 MB of the program's tables.
	idleAfter    = 3 * time.Second
	trimInterval = 20 * time.Second
)

// loop owns the pool, and with it the app. Its goroutine alone touches what is in
// it, but for the inbox.
type loop struct {
	*inbox
	pool     *pool.Pool
	executor effects
	log      *slog.Logger
	events   *eventlog.Log
	manager  manager
	signals  <-chan os.Signal

	rolls    map[int]*rollWaiter // by generation
	replaced map[pool.ID]*rollWaiter
	commands commandIDs // of the fleet, that were executed
	quit     *pool.AppExited

	hadTerminal bool      // at the start, and it has not closed
	hungUpAt    time.Time // when that was noticed; zero: it has not
	stoppingAt  time.Time // when the stop was asked for; zero: it has not been

	busyAt    time.Time // when a message came last; zero: trimmed since
	trimmedAt time.Time
	dropAt    time.Time // when to drop the program's pages once more; zero: not again
}

func newLoop(p *pool.Pool, log *slog.Logger, startedAt time.Time, kept *state.State) *loop {
	return &loop{
		inbox: newInbox(), pool: p, log: log, events: eventlog.New(startedAt, kept),
		rolls: map[int]*rollWaiter{}, replaced: map[pool.ID]*rollWaiter{}, trimmedAt: startedAt,
	}
}

// run runs until the pool has ended the app. Called once.
func (l *loop) run() pool.AppExited {
	defer close(l.done)
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	inspection := time.Tick(inspectInterval)
	var watchdog <-chan time.Time // nil: the service manager does not ask
	if l.manager.alive > 0 {
		watchdog = time.Tick(l.manager.alive)
	}
	l.hadTerminal = l.executor.hasTerminal()
	l.step(pool.Began{Fallback: l.executor.hasFallback()})
	for l.quit == nil {
		alarm.Stop()
		if next := l.pool.Next(); !next.IsZero() {
			alarm.Reset(time.Until(next))
		}
		select {
		case m := <-l.posts:
			l.busyAt = time.Now()
			l.handle(m)
		case sig := <-l.signals:
			l.signal(sig)
		case <-alarm.C:
			l.step(pool.Ticked{})
		case <-inspection:
			for _, ev := range l.executor.inspect() {
				l.step(ev)
			}
			l.seeTerminal(time.Now())
			l.trim(time.Now())
		case <-watchdog:
			l.manager.notifier.Tell("WATCHDOG=1") // from here: it is this loop that must not hang
		}
	}
	for generation := range l.rolls {
		l.rollEnded(canceled(generation))
	}
	for id := range l.replaced {
		l.workerReplaced(pool.Replaced{ID: id, Err: canceled(0).Why})
	}
	return *l.quit
}

func (l *loop) handle(m message) {
	defer func() { l.events.By = "" }()
	switch m := m.(type) {
	case fact:
		l.step(m.event)
	case reported:
		for _, ev := range l.executor.note(m.report) {
			l.step(ev)
		}
	case request:
		m.do()
	}
}

// step handles one event: decide, record, do.
func (l *loop) step(ev pool.Event) {
	actions := l.pool.Step(time.Now(), ev)
	logActions(l.log, actions, l.executor.worker)
	l.events.Record(actions, l.executor.worker)
	l.executor.perform(actions)
	for _, action := range actions {
		switch a := action.(type) {
		case pool.RollEnded:
			l.rollEnded(a)
		case pool.Replaced:
			l.workerReplaced(a)
		case pool.AppExited:
			l.quit = &a
		}
	}
	if l.stoppingAt.IsZero() && l.pool.Stopping() {
		l.stoppingAt = time.Now()
		l.events.Stopped = l.events.By
	}
	l.manager.see(l.pool.Summary(), l.executor.stopTime(), l.executor.notice())
}

// trim gives the memory of a burst (a start, a roll, many questions) back to the
// system once it is over: a master sits still for days. It drops the program's pages twice:
// a collection shrinks stacks, and their growth in the next inspection reads tables of the
// program that are needed for nothing else.
func (l *loop) trim(now time.Time) {
	idle, late := now.Sub(l.busyAt) > idleAfter, now.Sub(l.trimmedAt) > trimInterval
	switch {
	case !l.busyAt.IsZero() && idle || late:
		l.busyAt, l.trimmedAt, l.dropAt = time.Time{}, now, now.Add(inspectInterval+inspectInterval/2)
		go func() {
			debug.FreeOSMemory()
			dropFilePages()
		}()
	case !l.dropAt.IsZero() && now.After(l.dropAt):
		l.dropAt = time.Time{}
		dropFilePages() // here: a goroutine that ends reads such tables too
	}
}

// canceled is the end of a roll that a stop has forestalled.
func canceled(generation int) pool.RollEnded {
	return pool.RollEnded{Generation: generation, Result: pool.ResultCanceled, Why: "the app is stopping"}
}

// requestRoll asks for a new generation, with reload of the configuration read
// anew. Where the app is stopping the roll has ended already, for generation 0.
func (l *loop) requestRoll(reload bool) *rollWaiter {
	l.step(pool.RollRequested{Reload: reload})
	generation := l.pool.Requested()
	if generation == 0 || l.quit != nil {
		w := &rollWaiter{ended: make(chan struct{}), result: canceled(0)}
		close(w.ended)
		return w
	}
	w := l.rolls[generation]
	if w == nil {
		w = &rollWaiter{generation: generation, ended: make(chan struct{})}
		l.rolls[generation] = w
		l.events.Asked[generation] = l.events.By
	}
	return w
}

func (l *loop) rollEnded(a pool.RollEnded) {
	if w := l.rolls[a.Generation]; w != nil {
		delete(l.rolls, a.Generation)
		w.result = a
		close(w.ended)
	}
}

func (l *loop) requestReplacement(slot int) (*rollWaiter, error) {
	v := l.pool.View()
	if slot < 0 || slot >= len(v.Slots) {
		return nil, &control.Error{Code: http.StatusNotFound, Text: fmt.Sprintf("there is no slot %d: slots are 0 to %d", slot, len(v.Slots)-1)}
	}
	i := slices.IndexFunc(v.Slots[slot].Workers, func(w *pool.Worker) bool { return w.State == pool.StateReady })
	if i < 0 {
		return nil, conflict(fmt.Errorf("slot %d has no ready worker to replace", slot))
	}
	id := v.Slots[slot].Workers[i].ID
	w := l.replaced[id]
	if w == nil {
		w = &rollWaiter{generation: id.Generation, ended: make(chan struct{})}
		l.replaced[id] = w
	}
	l.step(pool.ReplaceRequested{ID: id, Cause: pool.CauseRequested, Why: fmt.Sprintf("reload --slot %d", slot)})
	return w, nil
}

func (l *loop) workerReplaced(a pool.Replaced) {
	w := l.replaced[a.ID]
	if w == nil {
		return
	}
	delete(l.replaced, a.ID)
	w.result = pool.RollEnded{Generation: a.ID.Generation, Result: pool.ResultDone, Why: a.Err, Fault: a.Fault, Slot: a.ID.Slot}
	if a.Err != "" {
		w.result.Result = pool.ResultFailed
	}
	close(w.ended)
}

// scale asks for another number of slots, by what is named. The error says why there can't
// be so many.
func (l *loop) scale(s control.Scale, by string) (scaled control.Scaled, err error) {
	v := l.pool.Summary()
	scaled.From = v.Wanted
	if scaled.To, err = s.Workers(v.Wanted, l.executor.cpus(v.Generation)); err != nil {
		return scaled, err
	}
	switch {
	case l.pool.Stopping():
		err = errors.New("cannot scale: the app is stopping")
	case l.pool.Standby():
		err = errors.New("cannot scale: the app is in standby (SIGWINCH): forkd reload brings the workers back")
	default:
		err = l.executor.afford(v.Generation, scaled.To)
	}
	if err == nil {
		l.step(pool.ScaleRequested{Slots: scaled.To, Why: by})
	}
	return scaled, conflict(err)
}

// drain has the host drain, or serve again, by what is named.
func (l *loop) drain(draining bool, by string) error {
	if l.pool.Stopping() {
		return conflict(errors.New("the app is stopping"))
	}
	l.step(pool.HostDrainRequested{Draining: draining, Why: by})
	return nil
}
