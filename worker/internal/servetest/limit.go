package drill

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
	"github.com/forkd/forkd/worker/internal/fake"
)

// turnedAway checks that the answer to a request is the one of a worker that has
// as many connections as it may have, and the last of its connection.
func (c *client) turnedAway(t *testing.T) {
	t.Helper()
	TurnedAway(t, c.in)
	c.closed(t)
}

// TurnedAway checks that what comes is the answer of a worker that has as many
// connections as it may have.
func TurnedAway(t *testing.T, in *bufio.Reader) {
	t.Helper()
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusServiceUnavailable || !r.Close || r.Header.Get("Retry-After") != "1" || r.ContentLength != 0 {
		t.Errorf("%s, %v", r.Status, r.Header)
	}
}

// A worker that has as many connections as it may have turns others away, counts
// them, and takes the next when one has gone.
func limit(t *testing.T, serve Serve) {
	s := setUpWith(t, serve, 2)
	a, b := s.dial(), s.dial()
	a.get(t)
	b.get(t)
	for refused := range 3 {
		c := s.dial()
		if err := c.send("/"); err != nil {
			t.Fatal(err)
		}
		c.turnedAway(t)
		s.Await(ipc.Counters{Attached: true, Open: 2, Accepts: uint64(3 + refused), Requests: 2, Refused: uint64(1 + refused)})
	}
	a.Close()
	s.Await(ipc.Counters{Attached: true, Open: 1, Accepts: 5, Requests: 2, Refused: 3})
	c := s.dial()
	c.get(t)
	b.get(t)
	s.Await(ipc.Counters{Attached: true, Open: 2, Accepts: 6, Requests: 4, Refused: 3})
}

// The master may change the limit: what is open stays.
func limitChanges(t *testing.T, serve Serve) {
	s := setUpWith(t, serve, 1)
	a, b := s.dial(), s.dial()
	a.get(t)
	s.Share(2)
	b.get(t)
	s.Share(1)
	a.get(t)
	a.Close()
	s.Await(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Requests: 3})
	c := s.dial()
	if err := c.send("/"); err != nil {
		t.Fatal(err)
	}
	c.turnedAway(t)
	b.get(t)
	s.Await(ipc.Counters{Attached: true, Open: 1, Accepts: 3, Requests: 4, Refused: 1})
}

// A WebSocket is one only when its handshake is done: so it is, before it is
// told to come later. Hijacked connections are among those that count.
func limitOfWebSockets(t *testing.T, serve Serve) {
	s := setUpWith(t, serve, 1)
	held := s.dial()
	if err := held.send("/hijack"); err != nil {
		t.Fatal(err)
	}
	s.entered()
	c := s.dial()
	// The example of RFC 6455, section 1.3.
	_, err := io.WriteString(c, "GET /chat HTTP/1.1\r\nHost: x\r\nupgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
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
	s.Await(ipc.Counters{Attached: true, Accepts: 2, Requests: 1, Refused: 1})
	s.dial().get(t)
}

// Many come and go at a time: each is served or turned away, the open ones are
// never more than may be, and the counters are exact in the end.
func limitUnderLoad(t *testing.T, serve Serve) {
	const most, clients, each = 3, 12, 25
	s := setUpWith(t, serve, most)
	var served, refused atomic.Uint64
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for range each {
				status, err := once(s.addr)
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
		if open := s.Counters().Open; open > most {
			t.Errorf("%d connections are open, want %d at most", open, most)
		}
		select {
		case <-done:
			tick.Stop()
			if served.Load() == 0 {
				t.Error("nobody was served")
			}
			s.Await(ipc.Counters{Attached: true, Accepts: clients * each, Requests: served.Load(), Refused: refused.Load()})
			return
		default:
		}
	}
}

// once is the status of one request on a connection of its own.
func once(addr string) (status int, err error) {
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

// begun is a connection over the limit that has said the beginning of a request.
func (s *stage) begun() *client {
	s.t.Helper()
	c := s.dial()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: "); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// A drain waits for the answers to those that are turned away, and while it lasts
// the limit holds.
func limitInADrain(t *testing.T, serve Serve) {
	s := setUpWith(t, serve, 1)
	a := s.dial()
	if err := a.send("/slow"); err != nil {
		t.Fatal(err)
	}
	s.entered()
	c := s.begun()
	s.Await(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Refused: 1, Requests: s.Counters().Requests})
	s.drain(ipc.ReasonStop, fake.Patience, 0)
	s.app.Release <- struct{}{}
	if _, err := a.receive(); err != nil {
		t.Error(err)
	}
	a.Close()
	if _, err := io.WriteString(c, "x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	c.turnedAway(t)
	c.Close()
	if err := s.done(); err != nil {
		t.Error(err)
	}
	s.Await(ipc.Counters{Attached: true, Accepts: 2, Requests: 1, Refused: 1})
}

// At the deadline of a drain, those that are turned away are cut, and are none in
// use.
func limitAtTheEnd(t *testing.T, serve Serve) {
	s := setUpWith(t, serve, 1)
	a := s.dial()
	a.get(t)
	s.begun()
	s.Await(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Requests: 1, Refused: 1})
	s.drain(ipc.ReasonRoll, 200*time.Millisecond, 0)
	if err := s.done(); err != nil {
		t.Error(err)
	}
	s.Await(ipc.Counters{Attached: true, Accepts: 2, Requests: 1, Refused: 1})
}

// A client that says nothing gets no answer, and one that does not say all gets
// one; a request of any length is answered.
func limitAndSilence(t *testing.T, serve Serve) {
	s := setUpWith(t, serve, 1)
	a := s.dial()
	a.get(t)
	silent, slow, long, odd := s.dial(), s.begun(), s.dial(), s.dial()
	go func() {
		_, _ = fmt.Fprintf(long, "POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n%s", strings.Repeat("x", 100_000), strings.Repeat("x", 200_000))
	}()
	if _, err := io.WriteString(odd, "\x16\x03\x01 what?\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	long.turnedAway(t)
	odd.turnedAway(t)
	for _, c := range []*client{slow, silent} {
		if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	slow.turnedAway(t)
	silent.closed(t)
	a.get(t)
	s.Await(ipc.Counters{Attached: true, Open: 1, Accepts: 5, Requests: 2, Refused: 4})
}

// Clients over the limit that are slow on purpose, and many, hold up nobody: not
// those that are served, and not the next when there is room.
func limitAndAFlood(t *testing.T, serve Serve) {
	const flood = 300 // more than are answered at a time
	s := setUpWith(t, serve, 1)
	a := s.dial()
	a.get(t)
	held := make([]net.Conn, flood)
	for i := range held {
		held[i] = s.begun()
	}
	s.Await(ipc.Counters{Attached: true, Open: 1, Accepts: 1 + flood, Requests: 1, Refused: flood})
	a.get(t)
	a.Close()
	s.Await(ipc.Counters{Attached: true, Accepts: 1 + flood, Requests: 2, Refused: flood})
	b := s.dial()
	b.get(t)
	for _, c := range held {
		c.Close()
	}
	s.Await(ipc.Counters{Attached: true, Open: 1, Accepts: 2 + flood, Requests: 3, Refused: flood})
}
