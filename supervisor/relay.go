package supervisor

import (
	"fmt"
	"net/http"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/ipc"
)

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

// relay hands a worker's message to all others.
func (e *executor) relay(from pool.ID, message ipc.App) {
	if line, err := ipc.Encode(message); err == nil { // a Reader gave it: it is one
		e.deliver(line, func(w *worker) bool { return w.id != from })
	}
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
