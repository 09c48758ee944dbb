package control

import (
	"errors"
	"fmt"
	"strings"
)

// Command is the body of POST /v1/command: what the fleet asks of this host. The
// fleet agent sends it. The events that it causes carry its id.
type Command struct {
	ID      string `json:"id"` // 1 to 64 of [A-Za-z0-9._-]; one that was executed is not executed again
	Op      string `json:"op"`
	Args    Args   `json:"args,omitzero"`
	Refused string `json:"refused,omitempty"` // only record an event "refused", for this reason
}

// Args are the arguments of a command.
type Args struct {
	Workers string `json:"workers,omitempty"` // scale: "N", "+N", "-N", "cpus"
	Count   int    `json:"count,omitempty"`   // shed: so many connections, from 1
	Seconds int    `json:"seconds,omitempty"` // shed: spread over so many, from 1; 0: 10
}

// The values of Command.Op.
const (
	OpScale  = "scale"
	OpRoll   = "roll"   // with the configuration as it is
	OpReload = "reload" // reads the configuration, then rolls
	OpDrain  = "drain"
	OpResume = "resume"
	OpShed   = "shed"
)

const (
	shedSeconds    = 10
	maxShedCount   = 1 << 30
	maxShedSeconds = 24 * 60 * 60
)

// CheckID reports whether the id is missing or invalid.
func (c *Command) CheckID() error {
	if c.ID == "" || len(c.ID) > 64 || strings.Trim(c.ID, alphanumeric+"._-") != "" {
		return errors.New("has no id of 1 to 64 of A-Z a-z 0-9 . _ -")
	}
	return nil
}

// Check reports what is wrong with the op and the args, and sets the defaults of
// those that are missing.
func (c *Command) Check() error {
	rest := c.Args
	switch c.Op {
	case OpScale:
		if _, err := ParseScale(c.Args.Workers); err != nil {
			return err
		}
		rest.Workers = ""
	case OpShed:
		if c.Args.Seconds == 0 {
			c.Args.Seconds = shedSeconds
		}
		if c.Args.Count < 1 || c.Args.Count > maxShedCount {
			return fmt.Errorf("sheds %d connections: 1 to %d", c.Args.Count, maxShedCount)
		}
		if c.Args.Seconds < 1 || c.Args.Seconds > maxShedSeconds {
			return fmt.Errorf("sheds over %d seconds: 1 to %d", c.Args.Seconds, maxShedSeconds)
		}
		rest.Count, rest.Seconds = 0, 0
	case OpRoll, OpReload, OpDrain, OpResume:
	default:
		return fmt.Errorf("has the op %.40q: only scale, roll, reload, drain, resume and shed are known", c.Op)
	}
	if rest != (Args{}) {
		return fmt.Errorf("has args that %s does not take", c.Op)
	}
	return nil
}
