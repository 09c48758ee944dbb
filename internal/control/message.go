package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/forkd/forkd/ipc"
)

// Message is the body of POST /v1/send: an application's message for one worker
// or for all. The server hands it on as one line of UTF-8, at most MaxMessage
// long, that no worker takes for one of forkd's own.
type Message struct {
	Slot    *int            `json:"slot"` // null: every slot
	Message json.RawMessage `json:"message"`
}

// Sent answers POST /v1/send.
type Sent struct {
	Workers int `json:"workers"` // that it was handed to
}

// MaxMessage is the most bytes of a message without white space: a line of the
// channel (docs/contract.md, Channel and counters page).
const MaxMessage = ipc.MaxLine

// Check makes one line of the message, or says with an *Error, 400 or 413, why
// workers can't be given it.
func (m *Message) Check() error {
	bad := func(format string, args ...any) error {
		return &Error{http.StatusBadRequest, "cannot send the message: " + fmt.Sprintf(format, args...)}
	}
	switch {
	case m.Slot != nil && (*m.Slot < 0 || *m.Slot >= MaxWorkers):
		return bad("slot %d: slots are 0 to %d", *m.Slot, MaxWorkers-1)
	case len(m.Message) == 0:
		return bad(`there is none: send {"message":JSON}`)
	}
	line, err := ipc.Encode(ipc.App(m.Message))
	switch {
	case err == nil:
		m.Message = line[:len(line)-1] // without the line end
		return nil
	case errors.Is(err, ipc.ErrTooLong):
		return &Error{http.StatusRequestEntityTooLarge, fmt.Sprintf("the message is larger than %d bytes", MaxMessage)}
	case errors.Is(err, ipc.ErrNotUTF8):
		return bad("it is not UTF-8")
	case errors.Is(err, ipc.ErrReserved):
		return bad("its cmd is forkd's own: cmd must not begin with FORKD_ or NODE_")
	default:
		return bad("it is %v", errors.Unwrap(err)) // not JSON, and why
	}
}
