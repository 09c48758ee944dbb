package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
)

const (
	maxCommand     = 4 << 10 // bytes
	shownOfCommand = 200     // bytes, in the log
)

// Command is a command for a host, by way of Redis.
type Command struct {
	control.Command

	ExpiresAt time.Time // by Redis's clock
}

// parseCommand parses a command as it stands in the list. Whatever is not known is an
// error: a command is executed as it was meant or not at all. With an error, the
// id is there where it is valid.
func parseCommand(text string) (Command, error) {
	var command struct {
		ID        string          `json:"id"`
		Op        string          `json:"op"`
		Args      control.Args    `json:"args"`
		ExpiresAt json.RawMessage `json:"expires_at"`
	}
	if len(text) > maxCommand {
		return Command{}, fmt.Errorf("is %d bytes: at most %d", len(text), maxCommand)
	}
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&command); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return justID(text), fmt.Errorf("has a %s as %s", e.Value, e.Field)
		}
		return justID(text), fmt.Errorf("is no JSON of a command: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Command{}, errors.New("goes on after its end")
	}
	c := Command{Command: control.Command{ID: command.ID, Op: cut(command.Op, 40), Args: command.Args}}
	if err := c.CheckID(); err != nil {
		return Command{}, err
	}
	expires, err := parseTime(command.ExpiresAt)
	if err != nil {
		return c, err
	}
	c.ExpiresAt = expires
	return c, c.Check()
}

// justID is a command of which nothing but its id, if it is valid, can be used.
func justID(text string) (c Command) {
	var named struct {
		ID string `json:"id"`
	}
	if json.Unmarshal([]byte(text), &named) == nil {
		c.ID = named.ID
	}
	if c.CheckID() != nil {
		c.ID = ""
	}
	return c
}

// parseTime reads RFC 3339 or ms since the epoch.
func parseTime(raw json.RawMessage) (time.Time, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		if t, err := time.Parse(time.RFC3339, text); err == nil {
			return t, nil
		}
	} else if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil && n > 0 {
		return time.UnixMilli(n), nil
	}
	return time.Time{}, errors.New("has no expires_at in RFC 3339 or ms since the epoch")
}
