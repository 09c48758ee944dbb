// Package chat is what examples/websocket and its clients say to each other: one JSON
// object in each text frame, a [Request] from the client, an [Event] from the server.
package chat

import (
	"fmt"
	"strconv"
	"strings"
)

// A Request is what a client sends: it joins a room, or says something in its room.
type Request struct {
	Join string `json:"join,omitempty"` // 1 to 64 of A-Z a-z 0-9 . _ -
	Last *ID    `json:"last,omitempty"` // with Join: the room's newest message that the client has; those after it are sent again
	Say  string `json:"say,omitempty"`
}

// Types of events.
const (
	Welcome = "welcome" // the first event of each connection
	Joined  = "joined"  // the client is in Room; the message that follows ID is the next
	Message = "message"
	Failed  = "error" // a request was not done
)

// An Event is what the server sends. Fields that its type does not need are empty.
type Event struct {
	Type string `json:"type"`

	Session string `json:"session,omitempty"` // welcome: to be given with the next connection
	Resumed bool   `json:"resumed,omitempty"` // welcome: the session that the client gave goes on
	Visits  int64  `json:"visits,omitempty"`  // welcome: connections of the session, with this one
	Said    int64  `json:"said,omitempty"`    // welcome: messages of the session
	Host    string `json:"host,omitempty"`    // welcome: who serves the connection
	Slot    string `json:"slot,omitempty"`    // welcome: of the worker; "" without a master
	PID     int    `json:"pid,omitempty"`     // welcome

	Room string `json:"room,omitempty"`
	ID   *ID    `json:"id,omitempty"`   // of a message; joined: of the newest one that the client is not sent
	From string `json:"from,omitempty"` // message: the public name of the session that said it
	Text string `json:"text,omitempty"`

	Error string `json:"error,omitempty"`
}

// An ID numbers the messages of a room without gaps: 1, 2, 3 in each epoch. An epoch is
// when the room's first message was said, in ms: a room that Redis has forgotten gets
// another one. In JSON it is "EPOCH-SEQ", which is a stream's entry ID in Redis.
// The zero ID is before all others.
type ID struct{ Epoch, Seq uint64 }

// Before reports whether a message was said before another one of the room.
func (id ID) Before(other ID) bool {
	return id.Epoch < other.Epoch || id.Epoch == other.Epoch && id.Seq < other.Seq
}

// Next is the ID of the next message, if the room is not forgotten before.
func (id ID) Next() ID { return ID{id.Epoch, id.Seq + 1} }

func (id ID) String() string { return fmt.Sprintf("%d-%d", id.Epoch, id.Seq) }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseID(string(text))
	return err
}

// ParseID reads an ID.
func ParseID(text string) (id ID, err error) {
	epoch, seq, _ := strings.Cut(text, "-")
	if id.Epoch, err = strconv.ParseUint(epoch, 10, 64); err == nil {
		id.Seq, err = strconv.ParseUint(seq, 10, 64)
	}
	if err != nil {
		return ID{}, fmt.Errorf("cannot read message ID %q: want EPOCH-SEQ", text)
	}
	return id, nil
}
