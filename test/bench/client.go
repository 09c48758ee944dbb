package main

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"time"
)

// A client sends one request after the other and never tries one again. It does
// what any correct HTTP/1.1 client does and no more: it keeps its connection
// until the server says Connection: close, and does not look at an idle one
// before it writes to it, so every close that crosses a request is seen.
type client struct {
	server  *net.TCPAddr
	timeout time.Duration
	buffer  []byte

	conn     *net.TCPConn // nil: the next request opens one
	port     uint16
	opened   time.Time
	answered int
}

const (
	requestKeep = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
	requestLast = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
)

func newClient(server *net.TCPAddr) *client {
	return &client{server: server, timeout: 5 * time.Second, buffer: make([]byte, 4096)}
}

// ask sends one request, as the last one of its connection or not, and reads
// the answer. The body is the client's, until the next call.
func (c *client) ask(last bool) (body []byte, failed *failure) {
	body, closed, err := c.exchange(last)
	if err != nil {
		f := &failure{kind: sort(err), port: c.port, opened: c.opened, at: time.Now(), answered: c.answered, err: err}
		c.close()
		return nil, f
	}
	c.answered++
	if closed {
		c.close()
	}
	return body, nil
}

func (c *client) exchange(last bool) (body []byte, closed bool, err error) {
	if c.conn == nil {
		c.port, c.answered, c.opened = 0, 0, time.Now()
		if c.conn, err = net.DialTCP("tcp4", nil, c.server); err != nil {
			return nil, false, err
		}
		c.port = uint16(c.conn.LocalAddr().(*net.TCPAddr).Port)
	}
	if err := c.conn.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return nil, false, err
	}
	request := requestKeep
	if last {
		request = requestLast
	}
	if _, err := io.WriteString(c.conn, request); err != nil {
		return nil, false, err
	}
	body, closed, err = readAnswer(c.conn, c.buffer)
	if err == nil && last {
		// The server closes first: it, not the client, keeps the port in TIME_WAIT.
		_, _ = io.Copy(io.Discard, c.conn)
		closed = true
	}
	return body, closed, err
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// readAnswer reads one whole answer into buffer and says whether the server
// means to close the connection.
func readAnswer(r io.Reader, buffer []byte) (body []byte, closed bool, err error) {
	for have := 0; have < len(buffer); {
		n, err := r.Read(buffer[have:])
		have += n
		head, rest, whole := bytes.Cut(buffer[:have], []byte("\r\n\r\n"))
		if whole {
			length, closed, herr := parseHead(head)
			if herr != nil {
				return nil, false, herr
			}
			switch {
			case len(rest) == length:
				return rest, closed, nil
			case len(rest) > length:
				return nil, false, errMalformed
			}
		}
		if err != nil {
			return nil, false, err
		}
	}
	return nil, false, errMalformed // larger than any answer that is measured here
}

// parseHead reads the status line and the two fields that matter (RFC 9112).
func parseHead(head []byte) (length int, closed bool, err error) {
	status, fields, _ := bytes.Cut(head, []byte("\r\n"))
	if len(status) < len("HTTP/1.1 200") || !bytes.HasPrefix(status, []byte("HTTP/1.1 ")) {
		return 0, false, errMalformed
	}
	if string(status[9:12]) != "200" {
		return 0, false, errBadStatus
	}
	length = -1
	for len(fields) > 0 {
		var line []byte
		line, fields, _ = bytes.Cut(fields, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 {
				return 0, false, errMalformed
			}
		case bytes.EqualFold(name, []byte("Connection")):
			closed = bytes.EqualFold(value, []byte("close"))
		}
	}
	if length < 0 {
		return 0, false, errMalformed
	}
	return length, closed, nil
}
