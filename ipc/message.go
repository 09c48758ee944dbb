package ipc

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
	"unicode/utf8"
)

// MaxLine is the most bytes that one message may have, without its newline.
const MaxLine = 1 << 20

// ProtocolVersion is what a worker says in its Hello.
const ProtocolVersion = 1

// DefaultIdle is how long a worker keeps idle connections after a drain with
// reason "stop" began, where the message does not say.
const DefaultIdle = time.Second

// The reasons of a Drain.
const (
	ReasonRoll    = "roll"    // a successor has this slot's socket
	ReasonScale   = "scale"   // the slot leaves
	ReasonRecycle = "recycle" // a successor has this slot's socket
	ReasonStop    = "stop"    // the app ends
)

// Message is one line of the channel: a Hello, Ready, Pulse, Drain, Shed, App or
// Reserved.
type Message interface{ message() }

type (
	// Hello is a worker's first line: it speaks this protocol, and will say Ready.
	Hello struct{ Version int }

	// Ready says that the worker serves from now on.
	Ready struct{}

	// Pulse says that the worker is alive.
	Pulse struct{}

	// Drain asks a worker to stop accepting and to finish what it has by
	// Deadline. Idle is how long it keeps idle connections where Reason is
	// ReasonStop.
	Drain struct {
		Reason   string
		Deadline time.Time
		Idle     time.Duration
	}

	// Shed asks a worker to let go of Count connections over the time Over.
	Shed struct {
		Count int
		Over  time.Duration
	}

	// App is an application's message: any JSON value that is not Reserved. What
	// a Reader returns belongs to the caller.
	App json.RawMessage

	// Reserved is an object whose cmd begins with FORKD_ or NODE_ and which this
	// version does not know. It is not the application's, and is let pass.
	Reserved struct{ Cmd string }
)

func (Hello) message()    {}
func (Ready) message()    {}
func (Pulse) message()    {}
func (Drain) message()    {}
func (Shed) message()     {}
func (App) message()      {}
func (Reserved) message() {}

const (
	cmdHello = "FORKD_HELLO"
	cmdReady = "FORKD_READY"
	cmdPulse = "FORKD_PULSE"
	cmdDrain = "FORKD_DRAIN"
	cmdShed  = "FORKD_SHED"
)

// wire is the shape of every message but an application's. Durations are
// seconds; pointers tell a missing field from a zero.
type wire struct {
	Cmd      string     `json:"cmd"`
	Version  int        `json:"version,omitempty"`
	Reason   string     `json:"reason,omitempty"`
	Deadline *time.Time `json:"deadline,omitempty"`
	Idle     *float64   `json:"idle,omitempty"`
	Count    int        `json:"count,omitempty"`
	Seconds  *float64   `json:"seconds,omitempty"`
}

// Encode is one message as a line, ending in its newline.
func Encode(m Message) ([]byte, error) { return Append(nil, m) }

// Why an application's message can't be encoded, for errors.Is. One that is not
// JSON is neither.
var (
	ErrTooLong  = fmt.Errorf("the line is over %d bytes", MaxLine)
	ErrNotUTF8  = errors.New("the line is not UTF-8")
	ErrReserved = errors.New("a cmd that begins with FORKD_ or NODE_ is reserved")
)

// Append adds a message to dst as a line, ending in its newline. An error means
// that dst is as it was: an application's message that is not JSON, or
// ErrTooLong, ErrNotUTF8, or ErrReserved for one that would pass for one of
// forkd's own.
func Append(dst []byte, m Message) ([]byte, error) {
	var w wire
	switch m := m.(type) {
	case Hello:
		w = wire{Cmd: cmdHello, Version: m.Version}
	case Ready:
		w = wire{Cmd: cmdReady}
	case Pulse:
		w = wire{Cmd: cmdPulse}
	case Drain:
		idle := m.Idle.Seconds()
		w = wire{Cmd: cmdDrain, Reason: m.Reason, Deadline: &m.Deadline, Idle: &idle}
	case Shed:
		over := m.Over.Seconds()
		w = wire{Cmd: cmdShed, Count: m.Count, Seconds: &over}
	case Reserved:
		w = wire{Cmd: m.Cmd}
	case App:
		return appendApp(dst, m)
	}
	line, err := json.Marshal(w)
	if err != nil {
		return dst, fmt.Errorf("cannot encode message: %w", err)
	}
	return append(append(dst, line...), '\n'), nil
}

func appendApp(dst []byte, m App) ([]byte, error) {
	var line bytes.Buffer
	if err := json.Compact(&line, m); err != nil {
		return dst, fmt.Errorf("cannot encode message: not JSON: %w", err)
	}
	if err := check(line.Bytes()); err != nil {
		return dst, fmt.Errorf("cannot encode message: %w", err)
	}
	if command(line.Bytes()) != "" {
		return dst, fmt.Errorf("cannot encode message: %w", ErrReserved)
	}
	return append(append(dst, line.Bytes()...), '\n'), nil
}

// Reader reads the messages of one side of the channel. It holds at most one
// line. It is for one goroutine.
type Reader struct{ in *bufio.Reader }

// NewReader reads messages from r, which stays the caller's to close.
func NewReader(r io.Reader) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, 4096)}
}

// Read waits for the next message. The error is io.EOF when the other side
// closed the channel between two lines. After any error the channel is of no
// further use: close it.
func (r *Reader) Read() (Message, error) {
	line, err := r.line()
	if err != nil {
		return nil, err
	}
	return parse(line)
}

// line returns the next line without its newline, valid until the next call.
func (r *Reader) line() ([]byte, error) {
	var long []byte
	for {
		piece, err := r.in.ReadSlice('\n')
		n := len(long) + len(piece)
		if n > MaxLine && (err != nil || n > MaxLine+1) {
			return nil, errTooLong
		}
		switch {
		case err == nil && long == nil:
			return piece[:len(piece)-1], nil
		case err == nil:
			return append(long, piece[:len(piece)-1]...), nil
		case errors.Is(err, bufio.ErrBufferFull):
			long = append(long, piece...)
		case errors.Is(err, io.EOF) && n == 0:
			return nil, io.EOF
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("cannot read message: the channel ended within a line: %w", io.ErrUnexpectedEOF)
		default:
			return nil, fmt.Errorf("cannot read message: %w", err)
		}
	}
}

var errTooLong = fmt.Errorf("cannot read message: %w", ErrTooLong)

// check says why a line can't be a message, but for whether it is JSON.
func check(line []byte) error {
	switch {
	case len(line) > MaxLine:
		return ErrTooLong
	case !utf8.Valid(line):
		return ErrNotUTF8
	}
	return nil
}

// parse is one line's message. What it returns shares no memory with line.
func parse(line []byte) (Message, error) {
	if err := check(line); err != nil {
		return nil, fmt.Errorf("cannot read message: %w", err)
	}
	if !json.Valid(line) {
		return nil, errors.New("cannot read message: the line is not JSON")
	}
	if cmd := command(line); cmd != "" {
		return known(cmd, line)
	}
	return App(bytes.Clone(line)), nil
}

func known(cmd string, line []byte) (Message, error) {
	switch cmd {
	case cmdReady:
		return Ready{}, nil
	case cmdPulse:
		return Pulse{}, nil
	case cmdHello, cmdDrain, cmdShed:
	default:
		return Reserved{Cmd: cmd}, nil
	}
	var w wire
	if err := json.Unmarshal(line, &w); err != nil {
		return nil, fmt.Errorf("cannot read message: bad %s: %w", cmd, err)
	}
	switch {
	case cmd == cmdHello:
		return Hello{Version: w.Version}, nil
	case cmd == cmdDrain && w.Deadline == nil:
		return nil, fmt.Errorf("cannot read message: bad %s: no deadline", cmd)
	case cmd == cmdDrain:
		return Drain{Reason: w.Reason, Deadline: *w.Deadline, Idle: duration(w.Idle, DefaultIdle)}, nil
	case w.Count < 0:
		return nil, fmt.Errorf("cannot read message: bad %s: count %d", cmd, w.Count)
	default:
		return Shed{Count: w.Count, Over: duration(w.Seconds, 0)}, nil
	}
}

// duration is a number of seconds, kept within 0 and a year.
func duration(seconds *float64, missing time.Duration) time.Duration {
	if seconds == nil {
		return missing
	}
	const year = 365 * 24 * 3600
	return time.Duration(math.Round(max(0, min(*seconds, year)) * float64(time.Second)))
}
