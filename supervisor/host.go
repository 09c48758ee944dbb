package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/adopt"
	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/eventlog"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
)

// host performs the pool's actions on this machine. It is the loop's: its fields
// are touched on the loop's goroutine only.
type host struct {
	app       string
	startedAt time.Time
	log       *slog.Logger
	tell      func(happening) bool
	children  *process.Children
	sockets   *sockets.Set
	upkeep    upkeep
	closer    closing.Closer // of what workers can fill
	null      int
	output    *output.Writer // nil: workers inherit the master's own

	events *eventlog.Log // the loop's own

	reloadFailed *control.Failure // the last reload, where it failed
	redis        func() *control.Redis

	releases  map[int]*release
	workers   map[pool.ID]*worker // those that run, and those whose group does
	leftovers map[pool.ID]*adopt.Leftover
	leaving   map[int]int   // slots whose sockets are watched, and for which turn
	starts    chan struct{} // one for each worker that is being started
	looks     sync.Mutex    // one look at half-open connections at a time
	daemons   daemons
	oom       process.OOMKills

	sent, dropped uint64 // messages

	implied    []sockets.Listener // where the configuration has none: those of the passed sockets
	serving    func() []int       // generations that slots are to run, or that serve
	preparing  func(int) bool     // a generation that a roll waits for
	stopWithin time.Duration      // what the service manager allows a stop; 0: not known
	slots      int                // that are wanted, as the pool said last
	deaf       string             // why a socket could not be listened on again, at the last look
	others     map[uint64]string  // who else listens on the app's ports, by the socket's ID
	naming     bool               // those that have come are being looked up
	blind      bool               // half-open connections can't be seen here
	reloading  bool               // the roll under way is a reload
	unlistened bool               // the app stops: the sockets are the workers' alone
}

// perform does what the pool has decided.
func (h *host) perform(action pool.Action) {
	switch a := action.(type) {
	case pool.Prepare:
		h.prepare(a)
	case pool.CheckRelease:
		h.check(a.Generation)
	case pool.Forget:
		h.forget(a.Generation)
	case pool.Start:
		h.start(a)
	case pool.Restore:
		h.restore(a)
	case pool.Retire:
		h.retire(a)
	case pool.StopGroup:
		h.stopGroup(a.ID)
	case pool.Kill:
		if w := h.workers[a.ID]; w != nil {
			w.killed = true
		}
		h.signalGroup(a.ID, syscall.SIGKILL)
	case pool.Released:
		h.bury(a.ID)
	case pool.Steer:
		h.steer(a.Serving)
	case pool.Leave:
		h.leave(a)
	case pool.CloseSlot:
		delete(h.leaving, a.Slot)
		if err := h.sockets.CloseSlot(a.Slot); err != nil {
			h.log.Error("cannot close the slot's sockets", "slot", a.Slot, "why", err)
		}
	case pool.CloseListeners:
		h.unlisten()
	case pool.RollEnded:
		h.unlistenOld()
		h.noteReload(a)
	case pool.Scaled:
		h.slots = a.To
		h.shareAgain(a.To)
	case pool.RollProgress:
		h.reloading = a.Reload
	case pool.StateChanged, pool.AppUp, pool.HostDrainChanged, pool.AppExited:
		// for the log and the event log
	}
	h.notices()
}

// worker implements edge.
func (h *host) worker(id pool.ID) (info eventlog.WorkerInfo) {
	if w := h.workers[id]; w != nil {
		info = eventlog.WorkerInfo{PID: w.process.PID(), Output: w.output}
	}
	return info
}

// prepare gets a generation's configuration and program beside the loop, and its
// sockets on it: they are the loop's.
func (h *host) prepare(a pool.Prepare) {
	before := h.releases[a.From].cfg
	cfg := before
	go func() {
		var r *release
		var err error
		if a.Reload {
			cfg, err = reread(cfg)
			warn(h.log, cfg)
		}
		if err == nil {
			r, err = prepareRelease(cfg)
		}
		kept := h.tell(func() pool.Event {
			if err != nil {
				return pool.PrepareFailed{Generation: a.Generation, Reason: err.Error()}
			}
			return h.adopt(a.Generation, r, before.Workers)
		})
		if r != nil && !kept {
			r.close()
		}
	}()
}

// adopt gives a release its sockets, and the host the release. A number of slots
// that was set by hand holds unless the file has another than before.
func (h *host) adopt(generation int, r *release, before int) pool.Event {
	if h.unlistened || !h.preparing(generation) {
		r.close()
		return nil // the roll has been canceled meanwhile
	}
	err := checkLimits(r.cfg, max(h.slots, r.cfg.Workers), len(h.workers))
	if err == nil {
		slots := h.slots
		if r.cfg.Workers != before {
			slots = r.cfg.Workers
		}
		err = checkSlots(r.cfg, slots)
	}
	var lineup *sockets.ListenerSet
	if err == nil {
		lineup, err = h.sockets.Open(h.listeners(r.cfg), h.slots)
	}
	if err != nil {
		r.close()
		return pool.PrepareFailed{Generation: generation, Reason: err.Error()}
	}
	r.lineup = lineup
	h.releases[generation] = r
	h.notices()
	h.checkStopTime(r.cfg)
	return pool.Prepared{Generation: generation, Settings: r.cfg.core(), Slots: r.cfg.Workers}
}

// notices logs what the sockets have to say of themselves.
func (h *host) notices() {
	for _, notice := range h.sockets.Notices() {
		h.log.Warn(notice)
	}
}

func (h *host) check(generation int) {
	r := h.releases[generation]
	go func() {
		lost := r.lost()
		h.tell(func() pool.Event { return pool.ReleaseChecked{Generation: generation, Lost: lost} })
	}()
}

func (h *host) forget(generation int) {
	if r := h.releases[generation]; r != nil {
		h.release(r)
		r.close()
		delete(h.releases, generation)
	}
}

// start runs a spawn beside the loop. Started reaches the loop before anything
// that the worker says or does.
func (h *host) start(a pool.Start) {
	id, r := a.ID, h.releases[a.ID.Generation]
	files, err := borrow(r.lineup, id.Slot)
	s := spawn{
		id: id, slots: a.Slots, cfg: r.cfg, release: r,
		sockets: files, listeners: r.lineup.Listeners(id.Slot),
		notifyDir: h.upkeep.place.Dir, closer: &h.closer, null: h.null, output: h.output,
	}
	go func() {
		var w *worker
		if err == nil {
			h.starts <- struct{}{}
			w, err = s.run(h.children)
			<-h.starts
		}
		go h.closer.Run(func() { // the slot may be closed, and these the last copies of a unix socket
			for _, fd := range files {
				unix.Close(fd)
			}
		})
		if err != nil {
			start, known := errors.AsType[*process.StartError](err)
			h.tell(func() pool.Event {
				return pool.StartFailed{ID: id, Reason: startFailure(err), Final: known && start.Final}
			})
			return
		}
		h.tell(func() pool.Event {
			h.workers[id] = w
			w.share(id, h.slots) // a scale may have come meanwhile
			return pool.Started{ID: id}
		})
		w.listen(h)
		w.process.Watch(
			func(e process.Exit) { h.tell(func() pool.Event { return h.exited(w, e) }) },
			func() { h.tell(func() pool.Event { return pool.GroupEnded{ID: id} }) },
		)
	}()
}

// borrow returns copies of the slot's sockets, for a spawn that must not mind if
// the slot is closed meanwhile.
func borrow(lineup *sockets.ListenerSet, slot int) ([]int, error) {
	files, err := lineup.Files(slot)
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

func (h *host) exited(w *worker, e process.Exit) pool.Event {
	w.link.Close()
	h.bereave(w, time.Now())
	words := e.String()
	if e.Signal == syscall.SIGKILL && !w.killed && h.oom.Took(time.Now()) {
		words = "killed by the OOM killer"
	}
	return pool.Exited{
		ID:        w.id,
		Exit:      pool.Exit{Code: e.Code, Signal: int(e.Signal), Words: words},
		Leftovers: e.Leftovers,
	}
}

// inspect looks at every socket: one that a worker has shut down between its
// start and its end is revived here.
func (h *host) inspect() {
	h.keepPlace()
	h.oom.Look(time.Now())
	h.children.Inspect()
	h.daemons.lookNow()
	if h.unlistened {
		return
	}
	restored, err := h.sockets.RestoreAll()
	if why := fmt.Sprint(err); why != h.deaf { // once, not at every look
		if h.deaf = why; err != nil {
			h.log.Error("cannot restore the sockets", "why", err)
		}
	}
	for _, r := range restored {
		h.listeningAgain(r.Slot, r.Why)
	}
	h.spoilt()
	h.nameOthers()
	h.notices()
}

func (h *host) restore(a pool.Restore) {
	why, err := h.sockets.Restore(a.Slot)
	if err != nil {
		h.log.Error("cannot restore the sockets", "slot", a.Slot, "why", err)
	}
	if why != "" {
		h.listeningAgain(a.Slot, why)
	}
	if a.Vacant {
		h.reset(a.Slot)
	}
	h.spoilt()
}

// reset sets back what workers had set on the slot's sockets for themselves.
func (h *host) reset(slot int) {
	changed, err := h.sockets.Reset(slot)
	if err != nil {
		h.log.Error("cannot set socket options back", "slot", slot, "why", err)
	}
	if len(changed) > 0 {
		h.log.Info("socket options set back", "slot", slot, "options", strings.Join(changed, " "))
	}
}

// spoilt tells of what workers have done to their sockets for good.
func (h *host) spoilt() {
	for _, s := range h.sockets.Damaged() {
		h.log.Warn("socket spoilt", "slot", s.Slot, "why", s.Why)
		e := control.Event{Type: control.EventSocketSpoilt, Reason: s.Why}
		if s.Slot >= 0 {
			e.Slot = &s.Slot
		}
		h.events.Add(e)
	}
}

func (h *host) listeningAgain(slot int, why string) {
	h.log.Info("listening again", "slot", slot, "why", why)
	h.events.Add(control.Event{Type: control.EventListeningAgain, Slot: &slot, Reason: why})
}

// unlisten lets go of the sockets: from here on the workers alone hold them.
func (h *host) unlisten() {
	h.unlistened = true
	h.sockets.CloseListeners()
}

func (h *host) retire(a pool.Retire) {
	w := h.workers[a.ID]
	if w == nil {
		return
	}
	if err := w.retire(a.Reason, a.Deadline); err != nil {
		h.log.Warn("cannot tell the worker to drain", "slot", a.ID.Slot, "pid", w.process.PID(), "why", err)
	}
	if n := w.shed(); n > 0 {
		h.events.Add(control.Event{Type: control.EventShed, Slot: &a.ID.Slot, Generation: &a.ID.Generation, PID: new(w.process.PID()), Reason: fmt.Sprintf("%d connections, %d a second", n, w.cfg.Drain.ShedPerSecond)})
	}
}

func (h *host) stopGroup(id pool.ID) {
	switch w, d := h.workers[id], h.daemons.left[id]; {
	case w != nil:
		h.signalGroup(id, w.cfg.StopSignal)
	case d != nil:
		h.signalGroup(id, d.config.StopSignal)
	}
}

func (h *host) signalGroup(id pool.ID, sig syscall.Signal) {
	var err error
	switch w, l, d := h.workers[id], h.leftovers[id], h.daemons.left[id]; {
	case w != nil:
		err = w.process.SignalGroup(sig)
	case l != nil:
		err = l.Signal(sig)
	case d != nil:
		err = d.signal(sig)
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		h.log.Warn("cannot signal the worker's group", "slot", id.Slot, "signal", sig, "why", err)
	}
}

func (h *host) bury(id pool.ID) {
	delete(h.workers, id)
	delete(h.daemons.left, id)
	if l := h.leftovers[id]; l != nil {
		l.Close()
		delete(h.leftovers, id)
	}
}

// close gives up what the host holds, when nothing of the app is alive.
func (h *host) close() {
	if h.sockets != nil {
		h.sockets.Close() // a stop has withdrawn them; a failure leaves them to the successor
	}
	for generation := range h.releases {
		h.forget(generation)
	}
	for id := range h.leftovers {
		h.bury(id)
	}
	if h.null >= 0 {
		unix.Close(h.null)
	}
	h.oom.Close()
}

// noteReload remembers a reload that failed until the next one does not.
func (h *host) noteReload(a pool.RollEnded) {
	if !h.reloading {
		return
	}
	h.reloading, h.reloadFailed = false, nil
	if a.Result != pool.ResultDone {
		h.reloadFailed = &control.Failure{At: time.Now(), Error: a.String()}
	}
}
