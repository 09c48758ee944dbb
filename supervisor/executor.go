package supervisor

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/adopt"
	"github.com/forkd/forkd/internal/cgroup"
	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/eventlog"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/procfs"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/internal/state"
	"github.com/forkd/forkd/ipc"
)

// executor performs the pool's actions on this machine. Only the loop's goroutine
// touches its fields. Whatever may block runs on a goroutine that ends by posting a
// report or a fact.
type executor struct {
	app       string
	startedAt time.Time
	log       *slog.Logger
	events    *eventlog.Log
	inbox     *inbox
	pool      *pool.Pool // to look things up; the loop steps it
	agent     *fleetAgent
	children  *process.Children
	logged    *output.Log
	logFiles  []output.LogFile
	null      int // /dev/null

	releases  map[int]*release // by generation
	workers   map[pool.ID]*worker
	leftovers map[pool.ID]*adopt.Leftover
	heard     map[uint64]bool // output pipes of these, by inode
	past      map[int]past    // by slot
	daemons   daemons
	starts    chan struct{} // one for each worker that is being started
	watching  atomic.Int32  // starting workers that are looked at
	oom       process.OOMKills
	leaves    *cgroup.Leaves // nil: workers are in the master's control group
	emptying  []*cgroup.Leaf // of workers that are gone, where a process is left
	closer    closing.Closer // of what workers can fill
	runtime   runtimeDir

	state        *state.State // nil: nothing outlives the master
	kept         state.Kept   // in it
	fallback     fallback
	slots        int              // that are wanted
	stopWithin   time.Duration    // what the service manager allows a stop; 0: not known
	rollAt       time.Time        // when the roll under way began; zero: there is none
	reloading    bool             // it is a reload
	weight       *process.Weight  // this process's own; nil: it is not to be changed
	light        bool             // it is low, see weigh
	reloadFailed *control.Failure // the last reload, where it failed

	sent, dropped uint64 // messages of applications
	halfMoved     int64  // connections taken over that no worker has handed over

	sockets         *sockets.Set
	implied         []sockets.Listener // where the configuration has none: those of the passed sockets
	passes          string             // why workers' calls are not answered, as the log has said
	learned         []sockets.Listener // where there are none of these either: those of the workers
	notLearned      string             // why an address was not made a listener, the last time
	claims          []*claim           // addresses that are about to be learned
	leaving         map[int]int        // slots whose sockets are polled, and for which turn
	polls           sync.Mutex         // one poll of half-open connections at a time
	noSockDiag      bool               // half-open connections can't be seen here
	lastListenError string             // why a socket could not listen again, at the last inspection
	others          map[uint64]string  // who else listens on the app's ports, by the socket's ID
	naming          bool               // holdersFound is on its way
	usageAt         time.Time          // when the workers' memory was looked at last
	stallsDue       time.Time          // when connections of workers that seem to be stalled may be looked at
	stallsAsked     bool               // stallsFound is on its way
	takenDue        time.Time          // when it may be looked whether workers have closed learned sockets
	takenAsked      bool               // closedFound is on its way
	listenersClosed bool               // the app stops: the sockets are the workers' alone
}

func (e *executor) perform(actions []pool.Action) {
	for _, action := range actions {
		switch a := action.(type) {
		case pool.Prepare:
			e.prepare(a)
		case pool.CheckRelease:
			e.checkRelease(a.Generation)
		case pool.Forget:
			e.forget(a.Generation)
		case pool.Start:
			e.start(a)
		case pool.Restore:
			e.restore(a)
		case pool.Retire:
			e.retire(a)
		case pool.StopGroup:
			e.stopGroup(a.ID)
		case pool.Kill:
			if w := e.workers[a.ID]; w != nil {
				w.killed = true
			}
			e.signalGroup(a.ID, syscall.SIGKILL)
		case pool.Released:
			e.released(a.ID)
		case pool.Steer:
			e.steer(a.Serving)
		case pool.Leave:
			e.leave(a)
		case pool.CloseSlot:
			e.closeSlot(a.Slot)
		case pool.CloseListeners:
			e.listenersClosed = true
			e.sockets.CloseListeners()
		case pool.RollProgress:
			e.reloading = a.Reload
			if e.rollAt.IsZero() {
				e.rollAt = time.Now()
			}
		case pool.RollEnded:
			e.rollAt = time.Time{}
			e.rollEnded(a)
		case pool.Replaced:
			e.replaced(a, time.Now())
		case pool.Scaled:
			e.slots = a.To
			for _, w := range e.workers {
				w.share(e.slots)
			}
			e.keepScaled()
		case pool.FellBack:
			e.fellBack(a)
		case pool.StateChanged:
			if w := e.workers[a.ID]; w != nil {
				w.becomes(a.To)
				e.warnUncounted(w)
				if a.To == pool.StateDraining {
					e.takesNoMore(w)
				}
				if a.To == pool.StateReady {
					e.handOverAgain(a.ID)
				}
			}
			if r := e.releases[a.ID.Generation]; a.To == pool.StateReady && r != nil && r.listeners != nil {
				r.listeners.Settle()
			}
		case pool.Restarted, pool.WorkerStalled, pool.Overloaded, pool.AppUp, pool.HostDrainChanged, pool.AppExited:
			// for the log and the event log
		}
	}
	if len(actions) > 0 {
		e.notices()
		e.weigh(time.Now())
	}
}

func (e *executor) note(r report) []pool.Event {
	now := time.Now()
	switch r := r.(type) {
	case prepared:
		return e.prepared(r)
	case started:
		e.workers[r.worker.id] = r.worker
		if r.uncaptured != "" {
			r.worker.release.taken = r.uncaptured
			e.notAnswered(r.worker.release, r.uncaptured)
		}
		r.worker.share(e.slots) // a scale may have come meanwhile
		return []pool.Event{pool.Started{ID: r.worker.id}}
	case exited:
		return []pool.Event{e.exited(r, now)}
	case called:
		return e.called(r)
	case unclaimed:
		e.endClaims(func(c *claim) bool { return c == r.claim })
	case memoryFound:
		return e.noteMemory(r, now)
	case stallsFound:
		return e.noteStalls(r, now)
	case closedFound:
		e.noteClosed(r, now)
	case said:
		if line, err := ipc.Encode(r.line); err == nil { // a Reader gave it: it is one
			e.deliver(line, func(w *worker) bool { return w.id != r.from })
		}
	case queuePolled:
		return e.queuePolled(r)
	case pathUnlinked:
		e.linkAgain(r.slot)
	case holdersFound:
		e.naming = false
		for _, o := range r.others {
			e.recordOther(o, r.holders[o.ID])
		}
	case daemonsFound:
		return e.noteDaemons(r, now)
	case leftoversFound:
		return e.noteLeftovers(r)
	case directoryFound:
		e.noteDirectory(r)
	case runtimeChecked:
		e.noteRuntime(r)
	}
	return nil
}

func (e *executor) worker(id pool.ID) (info eventlog.WorkerInfo) {
	if w := e.workers[id]; w != nil {
		info = eventlog.WorkerInfo{PID: w.process.PID(), Output: w.output, Moved: w.moved}
	}
	return info
}

// inspect repairs what workers and others may have changed, and looks at the workers
// themselves.
func (e *executor) inspect() []pool.Event {
	now := time.Now()
	e.keepRuntimeDir()
	e.state.Inspect()
	e.oom.Look(now)
	e.removeLeaves()
	e.children.Inspect()
	e.daemons.pollNow()
	e.noteServing(now)
	if e.listenersClosed {
		return nil
	}
	e.inspectSockets()
	e.endOldClaims(now)
	e.lookAtTaken(now)
	e.lookAtMemory(now)
	e.weigh(now)
	return append(e.ailing(now), e.stalls(now)...)
}

// start spawns a worker on a goroutine, which posts started before anything that the
// worker says or does.
func (e *executor) start(a pool.Start) {
	id, r := a.ID, e.releases[a.ID.Generation]
	var files []int
	var listeners []sockets.Listener
	var err error
	if !r.learns { // else it gets them as the worker did that told of them: uwsgi would speak another protocol on a passed one
		listeners = r.listeners.Listeners(id.Slot)
		files, err = dupSockets(r.listeners, id.Slot)
	}
	s := spawn{
		id: id, slots: a.Slots, cfg: r.cfg, release: r,
		leaves: e.leaves, sockets: files, inodes: r.listeners.Inodes(id.Slot), counting: e.sockets.Counting(), listeners: listeners,
		dir: e.runtime.dir, closer: &e.closer, log: e.log, null: e.null, logged: e.logged,
	}
	if before := e.served(id.Slot); before != nil {
		s.light = before.process.CanWeigh()
	}
	go func() {
		var w *worker
		if err == nil {
			e.starts <- struct{}{}
			w, err = s.run(e.children)
			<-e.starts
		}
		go e.closer.Run(func() { // the slot may be closed, and these the last copies of a unix socket
			for _, fd := range files {
				unix.Close(fd)
			}
		})
		if err != nil {
			start, known := errors.AsType[*process.StartError](err)
			e.inbox.postFact(pool.StartFailed{ID: id, Reason: startFailure(err), Final: known && start.Final})
			return
		}
		listener, why := w.process.Capture()
		e.inbox.postReport(started{w, why})
		w.listen(e)
		w.answerCalls(e, listener)
		if r.seen.Accepting || r.seen.Learns {
			go w.watch(e)
		}
		posted := make(chan struct{})
		w.process.Watch(
			func(exit process.Exit) {
				close(w.gone)
				go func() {
					e.inbox.postReport(exited{w, exit, w.heldBy(exit)})
					close(posted)
				}()
			},
			func() {
				go func() {
					<-posted
					e.inbox.postFact(pool.GroupEnded{ID: id})
				}()
			},
		)
	}()
}

// dupSockets copies the slot's sockets for a spawn: the slot may be closed meanwhile.
func dupSockets(listeners *sockets.ListenerSet, slot int) ([]int, error) {
	files, err := listeners.Files(slot)
	if err != nil {
		return nil, err
	}
	copies := make([]int, 0, len(files))
	for _, fd := range files {
		c, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			for _, fd := range copies {
				unix.Close(fd)
			}
			return nil, fmt.Errorf("cannot copy the slot's sockets: %w", err)
		}
		copies = append(copies, c)
	}
	return copies, nil
}

// exited handles a worker's exit. Other processes of its group may live on.
func (e *executor) exited(r exited, now time.Time) pool.Event {
	w, exit := r.worker, r.exit
	e.bury(w, exit)
	w.link.Close()
	e.endClaims(func(c *claim) bool { return c.worker == w.id })
	e.orphanDaemons(w, now)
	e.takesNoMore(w)
	oom, words := "", exit.String()
	if exit.Signal == syscall.SIGKILL && !w.killed {
		oom = e.outOfMemory(w, now)
		words = cmp.Or(oom, words)
	}
	if hint := e.hint(w, exit, r.holder); hint != "" {
		words += ": " + hint
	}
	return pool.Exited{
		ID:        w.id,
		Exit:      pool.Exit{Code: exit.Code, Signal: int(exit.Signal), OOM: oom != "", Words: words},
		Leftovers: exit.Leftovers,
	}
}

func (e *executor) retire(a pool.Retire) {
	w := e.workers[a.ID]
	if w == nil {
		return
	}
	e.letGo(a.ID)
	if a.Abort {
		w.output.Trace()
	}
	if r := e.releases[a.ID.Generation]; r != nil && r.listeners != nil && a.Reason != pool.ReasonStop {
		go e.watchPaths(w, r.listeners.Listeners(a.ID.Slot))
	}
	if a.Reason != pool.ReasonStop {
		e.handOver(w)
	}
	if err := w.retire(a); err != nil {
		e.log.Warn("cannot tell the worker to drain", "slot", a.ID.Slot, "pid", w.process.PID(), "why", err)
	}
	if n := w.shed(); n > 0 {
		e.events.Add(control.Event{
			Type: control.EventShed, Slot: &a.ID.Slot, Generation: &a.ID.Generation, PID: new(w.process.PID()),
			Reason: fmt.Sprintf("%d connections, %d a second", n, w.cfg.Drain.ShedPerSecond),
		})
	}
}

func (e *executor) stopGroup(id pool.ID) {
	switch w, d := e.workers[id], e.daemons.left[id]; {
	case w != nil:
		e.signalGroup(id, w.cfg.StopSignal)
	case d != nil:
		e.signalGroup(id, d.config.StopSignal)
	}
}

func (e *executor) signalGroup(id pool.ID, sig syscall.Signal) {
	var err error
	switch w, l, d := e.workers[id], e.leftovers[id], e.daemons.left[id]; {
	case w != nil:
		err = w.process.SignalGroup(sig)
	case l != nil:
		err = l.Signal(sig)
	case d != nil:
		err = d.signal(sig)
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		e.log.Warn("cannot signal the worker's group", "slot", id.Slot, "signal", sig, "why", err)
	}
}

// released forgets a worker of which no process lives.
func (e *executor) released(id pool.ID) {
	w := e.workers[id]
	if w != nil {
		e.takesNoMore(w) // what it has left may have bound since
	}
	if w != nil && w.leaf != nil {
		e.emptying = append(e.emptying, w.leaf)
		e.removeLeaves()
	}
	delete(e.workers, id)
	delete(e.daemons.left, id)
	if l := e.leftovers[id]; l != nil {
		l.Close()
		delete(e.leftovers, id)
	}
}

func (e *executor) reopenLogs() { go output.Reopen(e.logFiles, e.logged, e.log) }

// hasTerminal reports whether this process has a controlling terminal (tty(4)), and keeps
// it: the session loses it just after its leader's end has sent SIGHUP (setsid(2)).
func (e *executor) hasTerminal() bool {
	leader, _ := unix.Getsid(0) // 0: of another pid namespace
	stat, err := procfs.ReadStat(leader)
	if leader > 0 && (err == nil && stat.Exits || errors.Is(unix.Kill(leader, 0), unix.ESRCH)) {
		return false
	}
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// close releases everything. No process of the app is alive.
func (e *executor) close() {
	if e.sockets != nil {
		e.sockets.Close() // a stop has closed the listeners; a failure leaves them to the successor
	}
	for generation := range e.releases {
		e.forget(generation)
	}
	for id := range e.leftovers {
		e.released(id)
	}
	if e.null >= 0 {
		unix.Close(e.null)
	}
	if e.weight != nil {
		e.weight.Close()
	}
}

// keepScaled keeps a number of slots that differs from the file's.
func (e *executor) keepScaled() {
	e.kept.Scaled = nil
	if r := e.current(e.pool.Summary().Generation); r != nil && r.cfg.Workers != e.slots {
		e.kept.Scaled = &state.Scaled{Workers: e.slots, Of: r.cfg.Workers}
	}
	e.state.Keep(e.kept)
}
