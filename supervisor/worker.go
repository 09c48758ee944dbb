package supervisor

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/cgroup"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/internal/workerlink"
	"github.com/forkd/forkd/ipc"
)

// worker is the master's side of one worker. The loop owns it once it has started.
type worker struct {
	id      pool.ID
	cfg     Config // what it was started with
	release *release
	process *process.Process
	link    *workerlink.Link
	output  *output.Tail
	leaf    *cgroup.Leaf // its control group; nil: the master's
	killed  bool         // SIGKILL has been sent

	draining bool
	moved    uint64 // connections that it has handed over; known when it has ended

	named    []uint64 // cookies of sockets that it has bound, in an app that learns
	listened []uint64 // cookies of the slot's sockets on which it has called listen(2)
	taken    awaited  // in such an app: the slot's sockets that it has got, by inode

	care  care
	stall stall
	pulse atomic.Int64 // when it showed last that it lives, Unix time in nanoseconds

	claim    atomic.Pointer[claim]            // its last one, or the one that it waits for
	asked    atomic.Pointer[sockets.Program]  // where its last bind(2) was that it did for itself
	inodes   atomic.Pointer[[]uint64]         // of the listening sockets that it has
	counting atomic.Pointer[sockets.Counting] // where its connections are
	begun    atomic.Bool                      // it is not starting any more: watch ends
	look     chan struct{}                    // holds one: watch looks now
	gone     chan struct{}                    // closed when it has ended

	readers []*os.File // the reading ends of its stdout and stderr; none: it has the master's own
	pipes   []string   // what /proc/PID/fd shows for the other ends, as far as known
	endedAt time.Time  // zero: it lives
}

// listen starts the readers of a running worker.
func (w *worker) listen(e *executor) {
	log := e.log.With("slot", w.id.Slot, "pid", w.process.PID())
	w.link.Listen(w.process.PID(), e.children.Leads, log, func(m ipc.Message) {
		switch m := m.(type) {
		case ipc.Ready:
			e.inbox.postFact(pool.Notified{ID: w.id})
			w.lookNow()
		case ipc.Hello:
			e.inbox.postFact(pool.HelloReceived{ID: w.id})
		case ipc.App:
			e.inbox.postReport(said{w.id, m})
		case ipc.Pulse:
			w.pulses()
		case ipc.Drain, ipc.Shed, ipc.Handoff, ipc.Reserved: // the Link keeps them to itself
		}
	})
}

// drainMargin is how long before SIGKILL the worker's own deadline is, at most, so
// that it can log what it had to cut.
const drainMargin = 250 * time.Millisecond

// retire asks the worker to drain until it is killed: on the channel first, so that
// the reason and the deadline are there when the signal comes.
func (w *worker) retire(a pool.Retire) error {
	if a.Reason == pool.ReasonStop {
		w.link.SetStopping()
	}
	deadline := a.Deadline.Add(-min(drainMargin, w.cfg.Drain.Timeout/10))
	told := w.link.Send(ipc.Drain{Reason: string(a.Reason), Deadline: deadline, Idle: w.cfg.Drain.Idle})
	signal := w.cfg.StopSignal
	if a.Abort {
		signal = syscall.SIGABRT
	}
	if err := w.process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if errors.Is(told, workerlink.ErrClosed) {
		return nil // the signal will do
	}
	return told
}

// shed asks a draining worker to close its connections at drain.shed_per_second, so
// that clients do not all come back at once. It returns how many; 0: it does not ask.
func (w *worker) shed() (connections int) {
	c, counts := w.link.Counters()
	perSecond := w.cfg.Drain.ShedPerSecond
	if perSecond <= 0 || !counts || c.Open == 0 {
		return 0
	}
	connections = int(min(c.Open, maxShed))
	seconds := float64(connections) / float64(perSecond)
	if w.link.Send(ipc.Shed{Count: connections, Over: time.Duration(seconds * float64(time.Second))}) != nil {
		return 0 // it has closed the channel: the stop signal will do
	}
	return connections
}

// maxShed bounds what a worker's own page can make the master say.
const maxShed = 1 << 30

// share sets the worker's share of the host's connections. Those beyond it stay. A
// worker of a slot that leaves keeps its share: it gets no new connections.
func (w *worker) share(slots int) {
	most := w.cfg.Redis.MaxConnections
	if most > 0 && w.id.Slot < slots {
		w.link.SetLimit(share(most, w.id.Slot, slots))
	}
}

// share is a slot's share of the host's connections: the first slots take the
// remainder. It is at least 1, as 0 would be no limit.
func share(connections int64, slot, slots int) int64 {
	each, rest := connections/int64(max(1, slots)), connections%int64(max(1, slots))
	if int64(slot) < rest {
		each++
	}
	return max(1, each)
}

// send hands an application's message to the worker of a slot (nil: to all), also to
// those that drain.
func (e *executor) send(slot *int, message ipc.App) (workers int, err error) {
	line, err := ipc.Encode(message)
	if err != nil {
		return 0, &control.Error{Code: http.StatusBadRequest, Text: err.Error()}
	}
	if slot != nil && *slot >= e.slots {
		return 0, &control.Error{Code: http.StatusNotFound, Text: fmt.Sprintf("there is no slot %d: slots are 0 to %d", *slot, e.slots-1)}
	}
	workers, why := e.deliver(line, func(w *worker) bool { return slot == nil || w.id.Slot == *slot })
	if workers == 0 {
		text := "no worker has a message channel (channel = \"none\"), or none runs"
		if why != nil {
			text = "no worker took the message: " + why.Error()
		}
		return 0, &control.Error{Code: http.StatusConflict, Text: text}
	}
	return workers, nil
}

// deliver gives a line to every wanted worker with a channel. It counts those that
// took it; why is the last refusal.
func (e *executor) deliver(line []byte, wanted func(*worker) bool) (workers int, why error) {
	for _, w := range e.workers {
		if !w.link.HasChannel() || !wanted(w) {
			continue
		}
		if err := w.link.Deliver(line); err != nil {
			e.dropped++
			why = err
			continue
		}
		e.sent++
		workers++
	}
	return workers, why
}
