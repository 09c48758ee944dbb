// Package load asks HTTP servers, one at a time or many at once, and counts every
// request that fails: none is ever sent again. The benchmark and the compatibility
// table use it.
package load

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"time"
)

// A Client sends one request after the other and never tries one again. It does
// what any correct HTTP/1.1 client does and no more: it keeps its connection
// until the server says Connection: close, and does not look at an idle one
// before it writes to it, so every close that crosses a request is seen.
type Client struct {
	Timeout time.Duration // of a request, connecting included
	Conn    *net.TCPConn  // nil: the next request opens one
	From    net.IP        // its address; nil: any
	Opened  int           // connections so far

	server   *net.TCPAddr
	buffer   []byte
	port     uint16 // its own, of the last connection
	opened   time.Time
	answered int
}

const (
	requestKeep = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
	requestLast = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
)

// NewClient makes a client of a server, which gives each request 5 s.
func NewClient(server *net.TCPAddr) *Client {
	return &Client{Timeout: 5 * time.Second, server: server, buffer: make([]byte, 4096)}
}

// Ask sends one request, as the last one of its connection or not, and reads
// the answer. The body is the client's, until the next call.
func (c *Client) Ask(last bool) (body []byte, failed *Failure) {
	body, closed, err := c.exchange(last)
	if err != nil {
		f := &Failure{Kind: sort(err), Port: c.port, Opened: c.opened, At: time.Now(), Answered: c.answered, Err: err}
		c.Close()
		return nil, f
	}
	c.answered++
	if closed {
		c.Close()
	}
	return body, nil
}

func (c *Client) exchange(last bool) (body []byte, closed bool, err error) {
	if c.Conn == nil {
		c.port, c.answered, c.opened = 0, 0, time.Now()
		var from *net.TCPAddr
		if c.From != nil {
			from = &net.TCPAddr{IP: c.From}
		}
		if c.Conn, err = net.DialTCP("tcp4", from, c.server); err != nil {
			return nil, false, err
		}
		c.Opened++
		c.port = uint16(c.Conn.LocalAddr().(*net.TCPAddr).Port)
	}
	if err := c.Conn.SetDeadline(time.Now().Add(c.Timeout)); err != nil {
		return nil, false, err
	}
	request := requestKeep
	if last {
		request = requestLast
	}
	if _, err := io.WriteString(c.Conn, request); err != nil {
		return nil, false, err
	}
	body, closed, err = readAnswer(c.Conn, c.buffer)
	if err == nil && last {
		// The server closes first: it, not the client, keeps the port in TIME_WAIT.
		_, _ = io.Copy(io.Discard, c.Conn)
		closed = true
	}
	return body, closed, err
}

// Close ends the connection, if there is one.
func (c *Client) Close() {
	if c.Conn != nil {
		_ = c.Conn.Close()
		c.Conn = nil
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
			case length == untilClosed && errors.Is(err, io.EOF), length == len(rest):
				return rest, closed, nil
			case length != untilClosed && len(rest) > length:
				return nil, false, errMalformed
			}
		}
		if err != nil {
			return nil, false, err
		}
	}
	return nil, false, errMalformed // larger than any answer that is measured here
}

// untilClosed is the length of a body that ends with its connection.
const untilClosed = -1

// parseHead reads the status line and the two fields that matter (RFC 9112).
func parseHead(head []byte) (length int, closed bool, err error) {
	status, fields, _ := bytes.Cut(head, []byte("\r\n"))
	if len(status) < len("HTTP/1.1 200") || !bytes.HasPrefix(status, []byte("HTTP/1.")) {
		return 0, false, errMalformed
	}
	if string(status[9:12]) != "200" {
		return 0, false, errBadStatus
	}
	length, closed = untilClosed, status[7] == '0'
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
			switch {
			case bytes.EqualFold(value, []byte("close")):
				closed = true
			case bytes.EqualFold(value, []byte("keep-alive")):
				closed = false
			}
		}
	}
	if length == untilClosed && !closed {
		return 0, false, errMalformed
	}
	return length, closed, nil
}
