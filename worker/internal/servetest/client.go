package servetest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// client is one connection that never retries.
type client struct {
	net.Conn
	in *bufio.Reader
}

func (s *testServer) dial() *client {
	s.t.Helper()
	c, err := connect(s.addr)
	check(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	return c
}

// dialUsed is a connection that has had one answer.
func (s *testServer) dialUsed() *client {
	s.t.Helper()
	c := s.dial()
	c.get(s.t)
	return c
}

// dialAsking is a connection whose request is within its handler.
func (s *testServer) dialAsking(path string) *client {
	s.t.Helper()
	c := s.dial()
	c.ask(s.t, path)
	s.entered()
	return c
}

func connect(addr string) (*client, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &client{c, bufio.NewReader(c)}, c.SetDeadline(time.Now().Add(Timeout))
}

func (c *client) write(t *testing.T, text string) {
	t.Helper()
	_, err := io.WriteString(c, text)
	check(t, err)
}

func (c *client) send(path string) error {
	_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", path)
	return err
}

func (c *client) ask(t *testing.T, path string) {
	t.Helper()
	check(t, c.send(path))
}

// receive reads one response to its end and reports whether it was the last of
// the connection.
func (c *client) receive() (last bool, err error) {
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return false, err
	}
	defer r.Body.Close()
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return false, fmt.Errorf("after %d bytes of the body: %w", n, err)
	}
	if r.StatusCode != http.StatusOK || n != 2 && n != BigSize {
		return false, fmt.Errorf("status %d, %d bytes", r.StatusCode, n)
	}
	return r.Close, nil
}

// get is one request and its response.
func (c *client) get(t *testing.T) (last bool) {
	t.Helper()
	c.ask(t, "/")
	last, err := c.receive()
	check(t, err)
	return last
}

// closed waits for the server's close and says when it came. A reset fails the
// test.
func (c *client) closed(t *testing.T) time.Time {
	t.Helper()
	if b, err := c.in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Fatalf("got %q, %v; want the end of the connection", b, err)
	}
	return time.Now()
}

// echo checks that a hijacked connection answers.
func (c *client) echo(t *testing.T) {
	t.Helper()
	c.write(t, "x")
	if b, err := c.in.ReadByte(); err != nil || b != 'x' {
		t.Fatalf("the echo was %q, %v", b, err)
	}
}
