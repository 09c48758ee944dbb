package ipc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// MaxState is the most bytes of state that a program may hand over with a connection.
	MaxState = 64 << 10

	// MaxTransfer is the most bytes of a Transfer on the wire.
	MaxTransfer = MaxState + 1<<10
)

// Transfer is what a worker sends over the pair of a Handoff, one packet for each: a JSON
// object, a newline, and State as it is. The connection's descriptor comes with it by
// SCM_RIGHTS; until the Reply the sender keeps a copy.
//
// The receiver owns the connection once its Reply has been sent (send(2) has returned),
// never before. A sender that does not want to wait shuts its end down for reading
// (shutdown(2), SHUT_RD), so that no further Reply can be sent, reads those that were,
// and sends a Transfer with Withdrawn: the receiver gives up what it has not replied to.
// If the pair ends without one, the sender has died, and all that has come is the receiver's.
// With Withdrawn may come an end of another pair, for a receiver that has been silent for too
// long: it goes on there, and begins with a Reply to nothing, Seq 0.
type Transfer struct {
	Seq       uint64 `json:"seq,omitempty"`      // 1 for the first of a pair, then one more each
	Listener  string `json:"listener,omitempty"` // the name of the socket that accepted the connection
	Own       bool   `json:"own,omitempty"`      // the program's, with State; else it is idle between two requests of HTTP/1.1
	Withdrawn bool   `json:"withdrawn,omitempty"`
	State     []byte `json:"-"`
}

// Reply is the answer to a Transfer, in the same order: a JSON object.
type Reply struct {
	Seq   uint64 `json:"seq"`
	Taken bool   `json:"taken"` // false: the sender keeps the connection
}

// Encode makes a packet. The error says that State or Listener is too long.
func (t Transfer) Encode() ([]byte, error) {
	head, err := json.Marshal(t)
	if err == nil && (len(t.State) > MaxState || len(head)+1+len(t.State) > MaxTransfer) {
		err = fmt.Errorf("%d bytes of state; %d are the most", len(t.State), MaxState)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot encode transfer: %w", err)
	}
	return append(append(head, '\n'), t.State...), nil
}

// ParseTransfer reads a packet. State is a part of it.
func ParseTransfer(packet []byte) (t Transfer, err error) {
	head, state, ok := bytes.Cut(packet, []byte{'\n'})
	if !ok {
		err = errors.New("it has no newline")
	} else if err = json.Unmarshal(head, &t); err == nil && len(state) > MaxState {
		err = fmt.Errorf("%d bytes of state", len(state))
	}
	if err != nil {
		return Transfer{}, fmt.Errorf("bad transfer: %w", err)
	}
	t.State = state
	return t, nil
}

// Encode makes a packet.
func (r Reply) Encode() []byte {
	packet, _ := json.Marshal(r) // a number and a bool
	return packet
}

// ParseReply reads a packet.
func ParseReply(packet []byte) (r Reply, err error) {
	if err := json.Unmarshal(packet, &r); err != nil {
		return Reply{}, fmt.Errorf("bad reply: %w", err)
	}
	return r, nil
}

// Descriptors returns those that have come with a message (SCM_RIGHTS, unix(7)), from its
// control data. They are the caller's.
func Descriptors(control []byte) (fds []int) {
	messages, _ := unix.ParseSocketControlMessage(control) // none is an error
	for i := range messages {
		some, _ := unix.ParseUnixRights(&messages[i])
		fds = append(fds, some...)
	}
	return fds
}
