package ipc

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxLine is the longest message in bytes, without its newline.
const MaxLine = 1 << 20

// ProtocolVersion is the version in a worker's Hello.
const ProtocolVersion = 1

// DefaultIdle is Drain.Idle if the message has none.
const DefaultIdle = time.Second

// The kinds of channel that a worker may have.
const (
	ChannelForkd = "forkd" // for this package
	ChannelNode  = "node"  // for node's process.send and process.on('message'): the master sends nothing of its own but NodeShutdown
	ChannelNone  = "none"
)

// What programs of node say on their channel, as under pm2.
const (
	NodeReady    = `"ready"`    // as Ready
	NodeShutdown = `"shutdown"` // as Drain
)

// The reasons of a Drain.
const (
	ReasonRoll    = "roll"    // a successor serves this slot's socket
	ReasonScale   = "scale"   // the slot leaves
	ReasonRecycle = "recycle" // a successor serves this slot's socket
	ReasonStop    = "stop"    // the app ends
)

// The roles of a Handoff.
const (
	RoleFrom = "from" // the worker hands its connections over
	RoleTo   = "to"   // it takes them
)

// Message is one line of the channel: a Hello, Ready, Pulse, Drain, Shed, Handoff, App
// or Reserved.
type Message interface{ message() }

type (
	// Hello is a worker's first line: it will send Ready. With Handoff it understands the
	// message of that name.
	Hello struct {
		Version int
		Handoff bool
	}

	// Ready says that the worker serves from now on.
	Ready struct{}

	// Pulse says that the worker is alive.
	Pulse struct{}

	// Drain asks a worker to stop accepting and to finish by Deadline. Idle is how long
	// it keeps idle connections if Reason is ReasonStop.
	Drain struct {
		Reason   string
		Deadline time.Time
		Idle     time.Duration
	}

	// Shed asks a worker to close Count connections, spread over the time Over.
	Shed struct {
		Count int
		Over  time.Duration
	}

	// Handoff brings a worker one end of a pair of sockets (unix(7), SOCK_SEQPACKET, one
	// descriptor by SCM_RIGHTS with the line). What goes over it are a Transfer and a
	// Reply for each connection. A later one with RoleFrom replaces the one before.
	Handoff struct{ Role string }

	// App is an application's message: any JSON value that is not Reserved.
	App json.RawMessage

	// Reserved is an object with a cmd that begins with FORKD_ or NODE_ and is unknown to
	// this version. Receivers ignore it.
	Reserved struct{ Cmd string }
)

func (Hello) message()    {}
func (Ready) message()    {}
func (Pulse) message()    {}
func (Drain) message()    {}
func (Shed) message()     {}
func (Handoff) message()  {}
func (App) message()      {}
func (Reserved) message() {}

const (
	cmdHello   = "FORKD_HELLO"
	cmdReady   = "FORKD_READY"
	cmdPulse   = "FORKD_PULSE"
	cmdDrain   = "FORKD_DRAIN"
	cmdShed    = "FORKD_SHED"
	cmdHandoff = "FORKD_HANDOFF"
)

// jsonMessage is every message but an application's. Durations are in seconds.
type jsonMessage struct {
	Cmd      string     `json:"cmd"`
	Version  int        `json:"version,omitempty"`
	Handoff  bool       `json:"handoff,omitempty"`
	Role     string     `json:"role,omitempty"`
	Reason   string     `json:"reason,omitempty"`
	Deadline *time.Time `json:"deadline,omitempty"`
	Idle     *float64   `json:"idle,omitempty"`
	Count    int        `json:"count,omitempty"`
	Seconds  *float64   `json:"seconds,omitempty"`
}

// Why an application's message cannot be encoded, for errors.Is. For one that is not
// JSON there is none.
var (
	ErrTooLong  = fmt.Errorf("the line is over %d bytes", MaxLine)
	ErrNotUTF8  = errors.New("the line is not UTF-8")
	ErrReserved = errors.New("a cmd that begins with FORKD_ or NODE_ is reserved")
)

// Encode makes a line of a message, with its newline. An error says that an
// application's message is not JSON, or is ErrTooLong, ErrNotUTF8 or ErrReserved.
func Encode(m Message) ([]byte, error) {
	line, err := encode(m)
	if err != nil {
		return nil, fmt.Errorf("cannot encode message: %w", err)
	}
	return append(line, '\n'), nil
}

func encode(m Message) ([]byte, error) {
	switch m := m.(type) {
	case Hello:
		return json.Marshal(jsonMessage{Cmd: cmdHello, Version: m.Version, Handoff: m.Handoff})
	case Ready:
		return json.Marshal(jsonMessage{Cmd: cmdReady})
	case Pulse:
		return json.Marshal(jsonMessage{Cmd: cmdPulse})
	case Drain:
		idle := m.Idle.Seconds()
		return json.Marshal(jsonMessage{Cmd: cmdDrain, Reason: m.Reason, Deadline: &m.Deadline, Idle: &idle})
	case Shed:
		over := m.Over.Seconds()
		return json.Marshal(jsonMessage{Cmd: cmdShed, Count: m.Count, Seconds: &over})
	case Handoff:
		return json.Marshal(jsonMessage{Cmd: cmdHandoff, Role: m.Role})
	case Reserved:
		return json.Marshal(jsonMessage{Cmd: m.Cmd})
	case App:
		var line bytes.Buffer
		if err := json.Compact(&line, m); err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		if err := check(line.Bytes()); err != nil {
			return nil, err
		}
		if command(line.Bytes()) != "" {
			return nil, ErrReserved
		}
		return line.Bytes(), nil
	}
	return nil, fmt.Errorf("unknown type %T", m)
}

// Reader reads the messages of one side of the channel. It holds at most one line, and
// is for one goroutine.
type Reader struct{ in *bufio.Reader }

// NewReader reads messages from r. It never closes r.
func NewReader(r io.Reader) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, 4096)}
}

// Read waits for the next message, which belongs to the caller. The error is io.EOF if
// the other side closed the channel between two lines. After any error the channel is
// useless: close it.
func (r *Reader) Read() (Message, error) {
	line, err := r.line()
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	var m Message
	if err == nil {
		m, err = parse(line)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read message: %w", err)
	}
	return m, nil
}

// line returns the next line without its newline, valid until the next call.
func (r *Reader) line() ([]byte, error) {
	var long []byte
	for {
		piece, err := r.in.ReadSlice('\n')
		n := len(long) + len(piece)
		if n > MaxLine && (err != nil || n > MaxLine+1) {
			return nil, ErrTooLong
		}
		switch {
		case err == nil && long == nil:
			return piece[:len(piece)-1], nil
		case err == nil:
			return append(long, piece[:len(piece)-1]...), nil
		case errors.Is(err, bufio.ErrBufferFull):
			long = append(long, piece...)
		case errors.Is(err, io.EOF) && n > 0:
			return nil, fmt.Errorf("the channel ended within a line: %w", io.ErrUnexpectedEOF)
		default:
			return nil, err
		}
	}
}

// check checks a line, but not whether it is JSON.
func check(line []byte) error {
	switch {
	case len(line) > MaxLine:
		return ErrTooLong
	case !utf8.Valid(line):
		return ErrNotUTF8
	}
	return nil
}

// parse returns the message of a line, and keeps no reference to line.
func parse(line []byte) (Message, error) {
	if err := check(line); err != nil {
		return nil, err
	}
	if !json.Valid(line) {
		return nil, errors.New("the line is not JSON")
	}
	cmd := command(line)
	var w jsonMessage
	switch cmd {
	case "":
		return App(bytes.Clone(line)), nil
	case cmdReady:
		return Ready{}, nil
	case cmdPulse:
		return Pulse{}, nil
	case cmdHello, cmdDrain, cmdShed, cmdHandoff:
		if err := json.Unmarshal(line, &w); err != nil {
			return nil, fmt.Errorf("bad %s: %w", cmd, err)
		}
	default:
		return Reserved{Cmd: cmd}, nil
	}
	switch {
	case cmd == cmdHello:
		return Hello{Version: w.Version, Handoff: w.Handoff}, nil
	case cmd == cmdHandoff && w.Role != RoleFrom && w.Role != RoleTo:
		return nil, fmt.Errorf("bad %s: role %q", cmd, w.Role)
	case cmd == cmdHandoff:
		return Handoff{Role: w.Role}, nil
	case cmd == cmdDrain && w.Deadline == nil:
		return nil, fmt.Errorf("bad %s: no deadline", cmd)
	case cmd == cmdDrain:
		return Drain{Reason: w.Reason, Deadline: *w.Deadline, Idle: duration(w.Idle, DefaultIdle)}, nil
	case w.Count < 0:
		return nil, fmt.Errorf("bad %s: count %d", cmd, w.Count)
	default:
		return Shed{Count: w.Count, Over: duration(w.Seconds, 0)}, nil
	}
}

// command returns the reserved cmd of a line, which is valid JSON; "" if it has none.
// The last of several counts. It allocates little, however many keys the line has.
func command(line []byte) string {
	contains := func(text string) bool { return bytes.Contains(line, []byte(text)) }
	if !contains("FORKD_") && !contains("NODE_") && !contains(`\u`) {
		return ""
	}
	var object struct {
		Other json.RawMessage `json:"CMD"` // encoding/json fills the first field for "Cmd": it ignores case
		Cmd   json.RawMessage `json:"cmd"`
	}
	var cmd string
	if json.Unmarshal(line, &object) != nil || json.Unmarshal(object.Cmd, &cmd) != nil {
		return ""
	}
	if !strings.HasPrefix(cmd, "FORKD_") && !strings.HasPrefix(cmd, "NODE_") {
		return ""
	}
	return cmd
}

// duration converts seconds, within 0 and a year.
func duration(seconds *float64, missing time.Duration) time.Duration {
	if seconds == nil {
		return missing
	}
	const year = 365 * 24 * 3600
	return time.Duration(math.Round(max(0, min(*seconds, year)) * float64(time.Second)))
}
