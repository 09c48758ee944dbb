package supervisor

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/adopt"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
)

// watchLeftovers reports what a killed master has left, until none of it lives. It
// blocks.
func (e *executor) watchLeftovers(left *adopt.Leftovers) {
	if n := len(left.Found()); n > 0 {
		e.log.Warn("a killed master has left workers: they may finish what they have", "processes", n, "for", max(0, time.Until(left.KillAt)).Round(time.Second))
	}
	err := left.Watch(func(found, ended []*adopt.Leftover) bool {
		return e.inbox.postReport(leftoversFound{found, ended})
	})
	e.logError("cannot wait for a killed master's workers", err)
}

func (e *executor) noteLeftovers(r leftoversFound) (events []pool.Event) {
	e.hear(r.found)
	for _, l := range r.found {
		e.leftovers[l.ID] = l
		e.events.Add(control.Event{Type: control.EventLeftover, Slot: l.Slot, PID: &l.PID, Reason: "left by a killed master, draining"})
		events = append(events, pool.Inherited{ID: l.ID, Deadline: l.KillAt})
	}
	for _, l := range r.ended {
		events = append(events, pool.GroupEnded{ID: l.ID})
	}
	return events
}

// hear reads the output of what a killed master has left, until shortly after its end: else
// who writes more than a pipe holds would wait, and not finish. Some are found twice.
func (e *executor) hear(found []*adopt.Leftover) {
	// All are opened before the first is read: who waited for that may write its last words, and end.
	var readers []func()
	for _, l := range found {
		for fd, stream := range map[int]string{1: output.Stdout, 2: output.Stderr} {
			pipe, inode, err := output.AdoptPipe(l.PID, fd)
			if err != nil {
				continue // it has none, or has ended
			}
			if e.heard[inode] || l.Signal(0) != nil { // then this may be another process's
				pipe.Close()
				continue
			}
			e.heard[inode] = true
			of := output.Source{Slot: -1, Generation: -1, PID: l.PID, Stream: stream}
			if l.Slot != nil {
				of.Slot = *l.Slot
			}
			_ = pipe.SetReadDeadline(l.KillAt.Add(lastOutputTimeout))
			readers = append(readers, func() { e.logged.Capture(pipe, of, nil) })
		}
	}
	for _, read := range readers {
		go read()
	}
}

// besideLeftovers lets a bind(2) go on beside the sockets of what a killed master has left,
// where nobody else listens: it succeeds, and listen(2) has the address learned. They get no
// new connections then, as no stranger in the group does.
func (e *executor) besideLeftovers(c called, p sockets.Program) {
	var left []int
	for _, l := range e.leftovers {
		left = append(left, l.PID)
	}
	go func() {
		c.joined = append([]uint64{}, p.JoinHolders(func(h sockets.Holder) bool { return slices.Contains(left, h.PID) })...)
		e.inbox.postReport(c)
	}()
}

func showLeftover(l *adopt.Leftover) control.Leftover {
	out := control.Leftover{Slot: l.Slot, PID: l.PID, State: string(pool.StateDraining), KillAt: &l.KillAt, Processes: 1, Reason: "left by a master that was killed"}
	if !l.StartedAt.IsZero() {
		out.StartedAt = &l.StartedAt
	}
	return out
}

// daemon is a process that has left its worker's session and became the master's
// child when its parent ended (daemon(3)). It may be of use to its worker while that
// lives. What a dead worker has left is a leftover (docs/decisions/0031).
type daemon struct {
	*process.Orphan
	from *worker // nil: not known
	left bool    // by a dead worker: it is a leftover
}

// daemons is the loop's.
type daemons struct {
	alive   map[int]*daemon // by pid
	left    map[pool.ID]*leftDaemons
	counted int           // of left, ever
	past    []*worker     // that ended lately
	poll    chan struct{} // holds one: poll now
}

func newDaemons() daemons {
	return daemons{left: map[pool.ID]*leftDaemons{}, poll: make(chan struct{}, 1)}
}

func (d *daemons) pollNow() {
	select {
	case d.poll <- struct{}{}:
	default: // it is about to
	}
}

// leftDaemons are those that a dead worker has left, found at one poll.
type leftDaemons struct {
	id      pool.ID // of generation 0; Attempt is negative, unlike a killed master's
	from    *worker // nil: not known
	config  Config
	daemons []*daemon // that live
	killAt  time.Time
}

// maxUnknown bounds, for each slot, the daemons that could be any worker's.
const maxUnknown = 16

// watchDaemons reports the daemons until the loop ends: with each inspection, and
// when a worker or a daemon ends. It blocks.
func (e *executor) watchDaemons() {
	known := false
	for {
		select {
		case <-e.daemons.poll:
		case <-e.children.OrphanEnded():
		case <-e.inbox.done:
			return
		}
		found := e.children.Orphans()
		oldest := e.children.OldestStart() // after that: a daemon's worker that lives is older
		if known || len(found) > 0 {
			e.inbox.postReport(daemonsFound{found, oldest, e.children.Shared()})
		}
		known = len(found) > 0
	}
}

// noteDaemons returns what the pool is to know: which dead workers have left
// daemons, and of which none lives any more. oldest is the start time of the
// oldest live worker; with shared, daemons may belong to others than the workers.
func (e *executor) noteDaemons(r daemonsFound, now time.Time) (events []pool.Event) {
	alive := make(map[int]*daemon, len(r.daemons))
	for _, o := range r.daemons {
		d := e.daemons.alive[o.PID]
		if d == nil || d.Orphan != o {
			d = &daemon{Orphan: o}
		}
		if d.from == nil {
			d.from = e.originOf(o)
		}
		alive[o.PID] = d
	}
	e.daemons.alive = alive
	for _, l := range e.daemons.left {
		l.daemons = slices.DeleteFunc(l.daemons, func(d *daemon) bool { return alive[d.PID] != d })
		if len(l.daemons) == 0 {
			events = append(events, pool.GroupEnded{ID: l.id})
		}
	}
	if e.listenersClosed {
		return events // the others end with the app
	}
	for from, daemons := range byWorker(e.abandoned(r.oldest, r.shared)) {
		events = append(events, e.leaveDaemons(from, daemons, now))
	}
	return events
}

// originOf returns the worker that started a daemon, by the daemon's session or the
// worker's output pipe; nil: not known.
func (e *executor) originOf(o *process.Orphan) *worker {
	is := func(w *worker) bool {
		return o.Session == w.process.PID() || slices.ContainsFunc(w.pipes, func(pipe string) bool { return slices.Contains(o.Outputs[:], pipe) })
	}
	all := slices.Concat(slices.Collect(maps.Values(e.workers)), e.daemons.past)
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i]
	}
	return nil
}

// abandoned returns the daemons whose worker is dead. A daemon of unknown origin may be
// of any worker that lived when it started; of too many the youngest are abandoned.
func (e *executor) abandoned(oldest uint64, shared bool) (abandoned []*daemon) {
	room := maxUnknown * max(1, e.slots)
	for _, d := range sorted(e.daemons.alive) {
		switch {
		case d.left:
		case d.from != nil:
			if !d.from.endedAt.IsZero() {
				abandoned = append(abandoned, d)
			}
		case shared:
		case d.Start < oldest || room == 0:
			abandoned = append(abandoned, d)
		default:
			room--
		}
	}
	return abandoned
}

func sorted(daemons map[int]*daemon) []*daemon {
	return slices.SortedFunc(maps.Values(daemons), func(a, b *daemon) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.PID, b.PID))
	})
}

func byWorker(daemons []*daemon) map[*worker][]*daemon {
	by := map[*worker][]*daemon{}
	for _, d := range daemons {
		by[d.from] = append(by[d.from], d)
	}
	return by
}

// leaveDaemons makes leftovers of a dead worker's daemons. They have its
// drain.timeout, from its end if that is known.
func (e *executor) leaveDaemons(from *worker, daemons []*daemon, now time.Time) pool.Event {
	e.daemons.counted++
	l := &leftDaemons{id: pool.ID{Attempt: -e.daemons.counted}, from: from, daemons: daemons}
	if from != nil {
		l.id.Slot = from.id.Slot
		l.config = from.cfg
		l.killAt = from.endedAt.Add(l.config.Drain.Timeout)
	} else {
		l.config = e.releases[slices.Max(slices.Collect(maps.Keys(e.releases)))].cfg
		l.killAt = now.Add(l.config.Drain.Timeout)
	}
	e.daemons.left[l.id] = l
	for _, d := range daemons {
		d.left = true
	}
	shown := l.show()
	e.log.Warn("ending what is left of a worker, "+ownSession(daemons), "slot", l.id.Slot, "pid", shown.PID, "processes", shown.Processes)
	e.events.Add(control.Event{Type: control.EventLeftover, Slot: shown.Slot, PID: &shown.PID, Reason: fmt.Sprintf("%s, processes: %d", shown.Reason, shown.Processes)})
	return pool.Inherited{ID: l.id, Deadline: l.killAt, Stop: true}
}

func (l *leftDaemons) signal(sig syscall.Signal) error {
	var failed error
	for _, d := range l.daemons {
		if err := d.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			failed = err
		}
	}
	return failed
}

func (l *leftDaemons) show() control.Leftover { return showDaemons(l.from, l.daemons, &l.killAt) }

// showDaemons is how status shows the daemons of one worker (nil: of any); killAt is
// set when the worker is dead.
func showDaemons(from *worker, daemons []*daemon, killAt *time.Time) control.Leftover {
	out := control.Leftover{PID: daemons[0].PID, State: "running", Processes: len(daemons), KillAt: killAt}
	if at := daemons[0].StartedAt(); !at.IsZero() {
		out.StartedAt = &at
	}
	if from != nil {
		out.Slot = &from.id.Slot
		out.Reason = fmt.Sprintf("started by worker %d, ", from.process.PID())
	}
	if killAt != nil {
		out.State = string(pool.StateDraining)
		out.Reason = "left by a worker that has ended, "
	}
	out.Reason += ownSession(daemons)
	return out
}

// ownSession says where daemons are, in words.
func ownSession(daemons []*daemon) string {
	if len(daemons) == 1 {
		return "in a session of its own"
	}
	return "in sessions of their own"
}

func (e *executor) listDaemons() (all []control.Leftover) {
	for _, l := range e.daemons.left {
		all = append(all, l.show())
	}
	running := slices.DeleteFunc(sorted(e.daemons.alive), func(d *daemon) bool { return d.left })
	for from, daemons := range byWorker(running) {
		all = append(all, showDaemons(from, daemons, nil))
	}
	return all
}

// orphanDaemons notes a worker's end: its daemons have as long as its group. Its
// output is read for that long too, and no longer: a pipe that somebody else holds
// would cost the master a descriptor for ever. Writers get no SIGPIPE (output.NewPipe).
func (e *executor) orphanDaemons(w *worker, now time.Time) {
	w.endedAt = now
	for _, pipe := range w.readers {
		_ = pipe.SetReadDeadline(now.Add(w.cfg.Drain.Timeout + lastOutputTimeout)) // it may be closed already
	}
	e.daemons.pollNow()
	e.daemons.past = slices.DeleteFunc(append(e.daemons.past, w), func(w *worker) bool {
		return now.Sub(w.endedAt) > w.cfg.Drain.Timeout+2*inspectInterval
	})
}

// lastOutputTimeout is for what the killed have written last.
const lastOutputTimeout = time.Second
