package fleet_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience is how long a test waits for what must come: long, because the
// machine may stall, and paid only by a test that fails.
const patience = 5 * time.Minute

// A wire speaks Redis's protocol, version 2, with no help from the library that
// is under test.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
	raw  []byte // of the reply that is being read
}

func newWire(conn net.Conn) *wire { return &wire{conn: conn, in: bufio.NewReader(conn)} }

// do sends one command and returns its reply: a string, int64, nil, []any, or,
// inside of an array, an error. One that Redis refuses is an error.
func (w *wire) do(args ...string) (any, error) {
	if _, err := w.conn.Write(encode(args)); err != nil {
		return nil, err
	}
	reply, err := w.read()
	if err != nil {
		return nil, err
	}
	if refused, is := reply.(error); is {
		return nil, refused
	}
	return reply, nil
}

func encode(args []string) []byte {
	out := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, arg := range args {
		out = fmt.Appendf(out, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return out
}

// readCommand reads what a client has sent.
func (w *wire) readCommand() ([]string, error) {
	got, err := w.read()
	if err != nil {
		return nil, err
	}
	list, _ := got.([]any)
	args := make([]string, 0, len(list))
	for _, one := range list {
		arg, is := one.(string)
		if !is {
			return nil, errors.New("no command")
		}
		args = append(args, arg)
	}
	if len(args) == 0 {
		return nil, errors.New("no command")
	}
	return args, nil
}

// read reads one value; w.raw is how it came.
func (w *wire) read() (any, error) {
	w.raw = w.raw[:0]
	return w.value()
}

func (w *wire) value() (any, error) {
	line, err := w.in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	w.raw = append(w.raw, line...)
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return nil, errors.New("an empty line")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '+':
		return rest, nil
	case '-':
		return errors.New(rest), nil //nolint:nilerr // what Redis refuses is a reply too
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("not Redis's protocol: %q", line)
	}
	switch {
	case kind == ':':
		return n, nil
	case n < 0:
		return nil, nil
	case kind == '$':
		text := make([]byte, n+2)
		if _, err := io.ReadFull(w.in, text); err != nil {
			return nil, err
		}
		w.raw = append(w.raw, text...)
		return string(text[:n]), nil
	case kind == '*':
		list := make([]any, 0, n)
		for range n {
			one, err := w.value()
			if err != nil {
				return nil, err
			}
			list = append(list, one)
		}
		return list, nil
	default:
		return nil, fmt.Errorf("not Redis's protocol: %q", line)
	}
}

// texts makes a list of strings of an array.
func texts(t testing.TB, reply any) []string {
	t.Helper()
	list, is := reply.([]any)
	if !is {
		t.Fatalf("%v (%T) is no array", reply, reply)
	}
	out := make([]string, 0, len(list))
	for _, one := range list {
		out = append(out, fmt.Sprint(one))
	}
	return out
}

// pairs makes a map of an array of names and values.
func pairs(t testing.TB, reply any) map[string]string {
	t.Helper()
	list := texts(t, reply)
	out := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		out[list[i]] = list[i+1]
	}
	return out
}

// until asks again and again, until the answer is nil.
func until(t testing.TB, what string, ask func() error) {
	t.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	deadline := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		select {
		case <-again.C:
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}
