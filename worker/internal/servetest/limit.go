package servetest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
)

// refused checks that the answer to a request is the one of a worker that has
// as many connections as it may have, and the last of its connection.
func (c *client) refused(t *testing.T) {
	t.Helper()
	Refused(t, c.in)
	c.closed(t)
}

// Refused checks that what comes is the answer of a worker that has as many
// connections as it may have.
func Refused(t *testing.T, in *bufio.Reader) {
	t.Helper()
	r, err := http.ReadResponse(in, nil)
	check(t, err)
	defer r.Body.Close()
	if r.StatusCode != http.StatusServiceUnavailable || !r.Close || r.Header.Get("Retry-After") != "1" || r.ContentLength != 0 {
		t.Errorf("%s, %v", r.Status, r.Header)
	}
}

// A worker that has as many connections as it may have refuses others, counts
// them, and takes the next when one has gone.
func limit(t *testing.T, s *testServer) {
	a, b := s.dialUsed(), s.dialUsed()
	for refused := range 3 {
		c := s.dial()
		c.ask(t, "/")
		c.refused(t)
		s.WaitFor(ipc.Counters{Attached: true, Open: 2, Accepts: uint64(3 + refused), Requests: 2, Refused: uint64(1 + refused)})
	}
	a.Close()
	s.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 5, Requests: 2, Refused: 3})
	s.dial().get(t)
	b.get(t)
	s.WaitFor(ipc.Counters{Attached: true, Open: 2, Accepts: 6, Requests: 4, Refused: 3})
}

// The master may change the limit: what is open stays.
func limitChanges(t *testing.T, s *testServer) {
	a, b := s.dial(), s.dial()
	a.get(t)
	s.SetLimit(2)
	b.get(t)
	s.SetLimit(1)
	a.get(t)
	a.Close()
	s.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Requests: 3})
	c := s.dial()
	c.ask(t, "/")
	c.refused(t)
	b.get(t)
	s.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 3, Requests: 4, Refused: 1})
}

// A WebSocket is one only when its handshake is done: so it is, before it is
// told to come later. Hijacked connections are among those that count.
func limitOfWebSockets(t *testing.T, s *testServer) {
	held := s.dialAsking("/hijack")
	c := s.dial()
	// The example of RFC 6455, section 1.3.
	c.write(t, "GET /chat HTTP/1.1\r\nHost: x\r\nupgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	r, err := http.ReadResponse(c.in, nil)
	check(t, err)
	if r.StatusCode != http.StatusSwitchingProtocols || r.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" ||
		!strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") {
		t.Errorf("%s, %v", r.Status, r.Header)
	}
	frame, err := io.ReadAll(c.in)
	if err != nil || string(frame) != "\x88\x11\x03\xf5try again later" {
		t.Errorf("the frames are %q, %v", frame, err)
	}
	c.Close()
	held.echo(t)
	held.Close()
	s.WaitFor(ipc.Counters{Attached: true, Accepts: 2, Requests: 1, Refused: 1})
	s.dial().get(t)
}

// loadLimit is the limit of limitUnderLoad.
const loadLimit = 3

// Many clients come and go at a time: each is served or refused, the limit holds,
// and the counters are exact in the end.
func limitUnderLoad(t *testing.T, s *testServer) {
	const clients, each = 12, 25
	var served, refused atomic.Uint64
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for range each {
				status, err := requestOnce(s.addr)
				switch {
				case err != nil:
					t.Error(err)
				case status == http.StatusOK:
					served.Add(1)
				case status == http.StatusServiceUnavailable:
					refused.Add(1)
				default:
					t.Errorf("status %d", status)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		if open := s.Counters().Open; open > loadLimit {
			t.Errorf("%d connections are open, want %d at most", open, loadLimit)
		}
		select {
		case <-done:
			tick.Stop()
			if served.Load() == 0 {
				t.Error("nobody was served")
			}
			s.WaitFor(ipc.Counters{Attached: true, Accepts: clients * each, Requests: served.Load(), Refused: refused.Load()})
			return
		default:
		}
	}
}

// requestOnce is the status of one request on a connection of its own.
func requestOnce(addr string) (status int, err error) {
	c, err := connect(addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.send("/"); err != nil {
		return 0, err
	}
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return r.StatusCode, err
}

// dialPartial is a connection over the limit that has sent part of a request.
func (s *testServer) dialPartial() *client {
	s.t.Helper()
	c := s.dial()
	c.write(s.t, "GET / HTTP/1.1\r\nHost: ")
	return c
}

// A drain waits for the answers to refused connections, and while it lasts
// the limit holds.
func limitInADrain(t *testing.T, s *testServer) {
	a := s.dialAsking("/slow")
	c := s.dialPartial()
	s.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Refused: 1, Requests: s.Counters().Requests})
	s.drain(ipc.ReasonStop, Timeout, 0)
	s.app.Release <- struct{}{}
	if _, err := a.receive(); err != nil {
		t.Error(err)
	}
	a.Close()
	c.write(t, "x\r\n\r\n")
	c.refused(t)
	c.Close()
	s.wantServed()
	s.WaitFor(ipc.Counters{Attached: true, Accepts: 2, Requests: 1, Refused: 1})
}

// At the deadline of a drain, refused connections are cut, and are none in
// use.
func limitAtTheEnd(t *testing.T, s *testServer) {
	s.dial().get(t)
	s.dialPartial()
	s.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Requests: 1, Refused: 1})
	s.drain(ipc.ReasonRoll, 200*time.Millisecond, 0)
	s.wantServed()
	s.WaitFor(ipc.Counters{Attached: true, Accepts: 2, Requests: 1, Refused: 1})
}

// A silent client gets no answer, one that sends part of a request does, and a
// request of any length is answered.
func limitAndSilence(t *testing.T, s *testServer) {
	a := s.dialUsed()
	silent, slow, long, odd := s.dial(), s.dialPartial(), s.dial(), s.dial()
	go func() {
		_, _ = fmt.Fprintf(long, "POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n%s", strings.Repeat("x", 100_000), strings.Repeat("x", 200_000))
	}()
	odd.write(t, "\x16\x03\x01 what?\r\n\r\n")
	long.refused(t)
	odd.refused(t)
	for _, c := range []*client{slow, silent} {
		check(t, c.Conn.(*net.TCPConn).CloseWrite())
	}
	slow.refused(t)
	silent.closed(t)
	a.get(t)
	s.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 5, Requests: 2, Refused: 4})
}

// Many slow clients over the limit delay nobody: not those that are served, and not
// the next when there is room.
func limitAndAFlood(t *testing.T, s *testServer) {
	const flood = 300 // more than are answered at a time
	a := s.dialUsed()
	held := make([]net.Conn, flood)
	for i := range held {
		held[i] = s.dialPartial()
	}
	s.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 1 + flood, Requests: 1, Refused: flood})
	a.get(t)
	a.Close()
	s.WaitFor(ipc.Counters{Attached: true, Accepts: 1 + flood, Requests: 2, Refused: flood})
	s.dial().get(t)
	for _, c := range held {
		c.Close()
	}
	s.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 2 + flood, Requests: 3, Refused: flood})
}
