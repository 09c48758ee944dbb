package supervisor

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/ipc"
)

// worker is the master's side of one worker: the process and the master's ends
// of all that it was given. The loop owns it once it has started.
type worker struct {
	id      pool.ID
	process *process.Process
	notify  *notifySocket // nil: not given
	channel *channel      // nil: not given, or closed
	page    int           // -1: not given
}

// listen starts the readers of a worker that runs. They end when the master
// closes its ends. What a worker says over and over reaches the loop once.
func (w *worker) listen(tell func(happening) bool, log *slog.Logger) {
	once := func(ev pool.Event) func() {
		return sync.OnceFunc(func() { tell(func() pool.Event { return ev }) })
	}
	ready, greeted := once(pool.Notified{ID: w.id}), once(pool.Greeted{ID: w.id})
	if w.notify != nil {
		go w.notify.receive(ready)
	}
	if c := w.channel; c != nil {
		go func() {
			err := c.receive(func(m ipc.Message) {
				switch m.(type) {
				case ipc.Hello:
					greeted()
				case ipc.Ready:
					ready()
				default:
					// Application messages and pulses have no reader yet.
				}
			})
			if err != nil {
				log.Warn("channel closed", "slot", w.id.Slot, "pid", w.process.PID(), "why", err)
			}
			c.close()
		}()
	}
}

// retire asks the worker to drain: on the channel first, so that whoever gets
// the signal finds the reason and the deadline there.
func (w *worker) retire(reason pool.Reason, deadline time.Time, idle time.Duration, stop syscall.Signal) error {
	var told error
	if w.channel != nil {
		told = w.channel.sendDrain(string(reason), deadline, idle)
	}
	if err := w.process.Signal(stop); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if errors.Is(told, unix.EPIPE) || errors.Is(told, net.ErrClosed) {
		return nil // it has closed the channel: the signal will do
	}
	return told
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
