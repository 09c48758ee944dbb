package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
)

// host performs the pool's actions on this machine. It is the loop's: its fields
// are touched on the loop's goroutine only.
type host struct {
	cfg       Config
	startedAt time.Time
	log       *slog.Logger
	tell      func(happening) bool
	children  *process.Children
	sockets   *sockets.Set
	notifyDir string
	null      int
	output    *output // nil: workers inherit the master's own

	releases map[int]*release
	workers  map[pool.ID]*worker // those that run, and those whose group does

	unlistened bool // the app stops: the sockets are the workers' alone
}

// perform does what the pool has decided.
func (h *host) perform(action pool.Action) {
	switch a := action.(type) {
	case pool.Prepare:
		h.prepare(a.Generation)
	case pool.CheckRelease:
		h.check(a.Generation)
	case pool.Forget:
		h.forget(a.Generation)
	case pool.Start:
		h.start(a.ID)
	case pool.Restore:
		h.restore(a.Slot)
	case pool.Retire:
		h.retire(a)
	case pool.StopGroup:
		h.signalGroup(a.ID, h.cfg.StopSignal)
	case pool.Kill:
		h.signalGroup(a.ID, syscall.SIGKILL)
	case pool.Bury:
		delete(h.workers, a.ID)
	case pool.Steer:
		if err := h.sockets.Steer(a.Accept); err != nil {
			h.log.Error("cannot steer new connections", "why", err)
		}
	case pool.CloseSlot:
		if err := h.sockets.CloseSlot(a.Slot); err != nil {
			h.log.Error("cannot close the slot's sockets", "slot", a.Slot, "why", err)
		}
	case pool.Unlisten:
		h.unlisten()
	case pool.Moved, pool.RollMoved, pool.RollEnded, pool.Quit:
		// the loop's own
	}
}

// addresses names what the app listens on, for a person.
func (h *host) addresses() string {
	var all []string
	for _, l := range h.sockets.Listeners() {
		all = append(all, l.String())
	}
	return strings.Join(all, " ")
}

func (h *host) pid(id pool.ID) int {
	if w := h.workers[id]; w != nil {
		return w.process.PID()
	}
	return 0
}

func (h *host) prepare(generation int) {
	go func() {
		r, err := prepareRelease(h.cfg)
		kept := h.tell(func() pool.Event {
			if err != nil {
				return pool.PrepareFailed{Generation: generation, Reason: err.Error()}
			}
			h.releases[generation] = r
			return pool.Prepared{Generation: generation}
		})
		if !kept && err == nil {
			r.close()
		}
	}()
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
		r.close()
		delete(h.releases, generation)
	}
}

// start runs a spawn beside the loop. Started reaches the loop before anything
// that the worker says or does.
func (h *host) start(id pool.ID) {
	files, err := h.borrow(id.Slot)
	s := spawn{
		id: id, cfg: h.cfg, release: h.releases[id.Generation],
		sockets: files, listeners: h.sockets.Listeners(),
		notifyDir: h.notifyDir, null: h.null, output: h.output,
	}
	go func() {
		var w *worker
		if err == nil {
			w, err = s.run(h.children)
		}
		for _, fd := range files {
			unix.Close(fd)
		}
		if err != nil {
			h.tell(func() pool.Event { return pool.StartFailed{ID: id, Reason: err.Error()} })
			return
		}
		h.tell(func() pool.Event {
			h.workers[id] = w
			return pool.Started{ID: id}
		})
		w.listen(h.tell, h.log)
		w.process.Watch(
			func(e process.Exit) { h.tell(func() pool.Event { return h.exited(w, e) }) },
			func() { h.tell(func() pool.Event { return pool.GroupEnded{ID: id} }) },
		)
	}()
}

// borrow returns copies of the slot's sockets, for a spawn that must not mind if
// the slot is closed meanwhile.
func (h *host) borrow(slot int) ([]int, error) {
	files, err := h.sockets.Files(slot)
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
	w.forget()
	return pool.Exited{
		ID:        w.id,
		Exit:      pool.Exit{Code: e.Code, Signal: int(e.Signal), Words: e.String()},
		Leftovers: e.Leftovers,
	}
}

// inspect looks at every socket: one that a worker has shut down between its
// start and its end is revived here.
func (h *host) inspect() {
	if h.unlistened {
		return
	}
	changed, err := h.sockets.RestoreAll()
	if err != nil {
		h.log.Error("cannot listen again", "why", err)
	}
	for _, slot := range changed {
		h.listeningAgain(slot)
	}
}

func (h *host) restore(slot int) {
	changed, err := h.sockets.Restore(slot)
	switch {
	case err != nil:
		h.log.Error("cannot listen again", "slot", slot, "why", err)
	case changed:
		h.listeningAgain(slot)
	}
}

func (h *host) listeningAgain(slot int) {
	h.log.Info("listening again", "slot", slot, "why", "the worker had shut the socket down or changed its backlog")
}

// unlisten lets go of the sockets: from here on the workers alone hold them.
func (h *host) unlisten() {
	h.unlistened = true
	h.sockets.Close()
}

func (h *host) retire(a pool.Retire) {
	w := h.workers[a.ID]
	if w == nil {
		return
	}
	if err := w.retire(a.Reason, h.sayDeadline(a.Deadline), h.cfg.Drain.Idle, h.cfg.StopSignal); err != nil {
		h.log.Warn("cannot tell the worker to drain", "slot", a.ID.Slot, "pid", w.process.PID(), "why", err)
	}
}

// lastMoment is how much earlier than SIGKILL a worker is told to be done, at
// most, so that it can say itself what it had to cut.
const lastMoment = 250 * time.Millisecond

func (h *host) sayDeadline(kill time.Time) time.Time {
	return kill.Add(-min(lastMoment, h.cfg.Drain.Timeout/10))
}

func (h *host) signalGroup(id pool.ID, sig syscall.Signal) {
	w := h.workers[id]
	if w == nil {
		return
	}
	if err := w.process.SignalGroup(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		h.log.Warn("cannot signal the worker's group", "slot", id.Slot, "signal", sig, "why", err)
	}
}

// close gives up what the host holds, when nothing of the app is alive.
func (h *host) close() {
	for generation := range h.releases {
		h.forget(generation)
	}
	if h.sockets != nil {
		h.sockets.Close()
	}
	if h.null >= 0 {
		unix.Close(h.null)
	}
}
