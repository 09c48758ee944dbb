package supervisor

import (
	"fmt"
	"net/http"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/ipc"
)

// send hands an application's message to the worker of a slot, or to all: those
// that drain too, as they serve still.
func (h *host) send(slot *int, message ipc.App) (workers int, err error) {
	line, err := ipc.Encode(message)
	if err != nil {
		return 0, &control.Error{Code: http.StatusBadRequest, Text: err.Error()}
	}
	if slot != nil && *slot >= h.slots {
		return 0, &control.Error{Code: http.StatusNotFound, Text: fmt.Sprintf("there is no slot %d: slots are 0 to %d", *slot, h.slots-1)}
	}
	workers, why := h.deliver(line, func(w *worker) bool { return slot == nil || w.id.Slot == *slot })
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
func (h *host) relay(from pool.ID, message ipc.App) {
	if line, err := ipc.Encode(message); err == nil { // a Reader gave it: it is one
		h.deliver(line, func(w *worker) bool { return w.id != from })
	}
}

// deliver gives a line to every worker that is wanted and has a channel. It
// counts those that it was handed to; why is the last refusal.
func (h *host) deliver(line []byte, wanted func(*worker) bool) (workers int, why error) {
	for _, w := range h.workers {
		if !w.link.HasChannel() || !wanted(w) {
			continue
		}
		if err := w.link.Deliver(line); err != nil {
			h.dropped++
			why = err
			continue
		}
		h.sent++
		workers++
	}
	return workers, why
}
