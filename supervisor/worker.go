package supervisor

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/ipc"
)

// worker is the master's side of one worker: the process and the master's ends
// of all that it was given. The loop owns it once it has started.
type worker struct {
	id      pool.ID
	cfg     Config // what it was started with
	process *process.Process
	notify  *notifySocket // nil: not given
	channel *channel      // nil: not given, or closed
	page    int           // -1: not given
	output  *output.Tail
	killed  bool // SIGKILL has been sent

	stdout  *os.File  // the reading end of its output; nil: it has the master's own
	pipe    string    // what /proc/PID/fd shows for the other end; "": not known
	endedAt time.Time // zero: it lives
}

// listen starts the readers of a worker that runs. They end when the master
// closes its ends. What a worker says over and over reaches the loop once, but
// for what it says to other workers.
func (w *worker) listen(h *host) {
	once := func(ev pool.Event) func() {
		return sync.OnceFunc(func() { h.tell(func() pool.Event { return ev }) })
	}
	ready, greeted := once(pool.Notified{ID: w.id}), once(pool.HelloReceived{ID: w.id})
	if w.notify != nil {
		var once sync.Once // a flood is told of once
		ignored := func(sender int) {
			once.Do(func() {
				h.log.Warn("notify message ignored: its sender is none of the worker's processes", "slot", w.id.Slot, "pid", w.process.PID(), "sender", sender)
			})
		}
		counts := func(sender int) bool { return ofWorker(sender, w.process.PID(), h.children.Leads) }
		go w.notify.receive(counts, func(n notification) {
			if n.ready {
				ready()
			}
		}, ignored)
	}
	if c := w.channel; c != nil {
		go func() {
			err := c.receive(func(m ipc.Message) {
				switch m := m.(type) {
				case ipc.Hello:
					greeted()
				case ipc.Ready:
					ready()
				case ipc.App:
					h.tell(func() pool.Event { h.relay(w.id, m); return nil })
				case ipc.Pulse, ipc.Drain, ipc.Shed, ipc.Reserved:
					// A pulse has no reader yet; the others are the master's own words.
				}
			})
			if err != nil {
				h.log.Warn("channel closed", "slot", w.id.Slot, "pid", w.process.PID(), "why", err)
			}
			c.close()
		}()
	}
}

// lastMoment is how much earlier than SIGKILL a worker is told to be done, at
// most, so that it can say itself what it had to cut.
const lastMoment = 250 * time.Millisecond

// retire asks the worker to drain until it is killed: on the channel first, so
// that whoever gets the signal finds the reason and the deadline there.
func (w *worker) retire(reason pool.Reason, kill time.Time) error {
	drain := w.cfg.Drain
	var told error
	if w.channel != nil {
		told = w.channel.sendDrain(string(reason), kill.Add(-min(lastMoment, drain.Timeout/10)), drain.Idle)
	}
	if err := w.process.Signal(w.cfg.StopSignal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if errors.Is(told, unix.EPIPE) || errors.Is(told, net.ErrClosed) {
		return nil // it has closed the channel: the signal will do
	}
	return told
}

// shed asks a worker that has been told to drain to close the connections that it
// has at drain.shed_per_second, so that the clients of long-lived ones do not come
// back all at once. It returns how many: 0 where it does not ask.
func (w *worker) shed() (connections int) {
	c, counts := w.counters()
	perSecond := w.cfg.Drain.ShedPerSecond
	if perSecond <= 0 || !counts || c.Open == 0 || w.channel == nil {
		return 0
	}
	connections = int(min(c.Open, maxShed))
	seconds := float64(connections) / float64(perSecond)
	if w.channel.send(ipc.Shed{Count: connections, Over: time.Duration(seconds * float64(time.Second))}) != nil {
		return 0 // it has closed the channel: the stop signal will do
	}
	return connections
}

// maxShed bounds what a worker's own page can make the master say.
const maxShed = 1 << 30

// counters is what the worker counts, where it does.
func (w *worker) counters() (c ipc.Counters, known bool) {
	if w.page < 0 {
		return c, false
	}
	c, err := ipc.ReadPage(w.page)
	return c, err == nil && c.Attached
}

// forget closes the master's ends, once the process is gone.
func (w *worker) forget() {
	if w.notify != nil {
		w.notify.close()
	}
	if w.channel != nil {
		w.channel.close()
	}
	if w.page >= 0 {
		unix.Close(w.page)
	}
	w.notify, w.channel, w.page = nil, nil, -1
}
