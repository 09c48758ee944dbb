package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"time"

	"github.com/forkd/forkd/examples/websocket/chat"
	"github.com/forkd/forkd/worker"
)

// state is all that there is to know of a connection: with it and the socket another
// worker goes on, and the client sees nothing of it.
type state struct {
	Version int
	Session string
	Room    string
	Seen    chat.ID // the newest message of the room that the client was sent
	Ahead   []byte  // read from the socket, and not handled yet: perhaps a part of a frame
	Unsent  []byte  // to be written to it: perhaps from the middle of a frame on
}

// stateVersion is that of state. All have Version and Unsent.
const stateVersion = 1

// drain hands the clients of a draining worker over: those that come from the queue too. What
// is left when half of the time is over, or at once where no worker follows, is closed
// over some time, with spread 0 at forkd's pace.
func (s *server) drain(w *worker.Worker, spread time.Duration) {
	<-w.Draining()
	const step = 20 * time.Millisecond
	from := time.Now()
	if hasEnded(w.Successor()) { // if that one dies, there will be another
		from = from.Add(time.Until(w.Deadline()) / 2)
	}
	end := from.Add(min(spread, w.Deadline().Sub(from)*8/10))
	for tick := time.NewTicker(step); ; <-tick.C {
		if next := w.Successor(); hasEnded(next) {
			s.move(next)
		}
		if time.Now().Before(from) {
			continue
		}
		n, steps := s.open(), int(time.Until(end)/step)
		switch {
		case spread == 0:
			n = int(s.paced.Swap(0))
		case steps > 0:
			n = (n + steps - 1) / steps
		}
		s.closeOldest(n, statusServiceRestart, "restart")
	}
}

func hasEnded(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// maxMoving is how many clients move at a time: the others are served meanwhile.
const maxMoving = 256

// move has clients move to a successor, each but once.
func (s *server) move(successor <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	moving := 0
	for e := s.clients.Front(); e != nil && moving < maxMoving; e = e.Next() {
		if e.Value.(*client).move(successor) {
			moving++
		}
	}
}

// move ends the Read of the goroutine that serves the client, which then hands it over.
// What is being handled is handled first. move reports whether the client is on its way.
func (c *client) move(successor <-chan struct{}) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing && !c.moving && c.tried != successor {
		c.moving, c.tried = true, successor
		_ = c.conn.SetReadDeadline(time.Unix(1, 0))
	}
	return c.moving
}

// freeze ends writing, and returns the state. The client is in no room: nothing more is
// sent to it.
func (c *client) freeze() ([]byte, error) {
	c.mu.Lock()
	_ = c.conn.SetWriteDeadline(time.Unix(1, 0))
	c.mu.Unlock()
	c.writer.Wait()
	c.Version, c.Unsent = stateVersion, bytes.Join(c.queue, nil)
	return json.Marshal(c.state)
}

// thaw undoes freeze and move.
func (c *client) thaw() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moving, c.parsed, c.Unsent = false, 0, nil
	c.startWriting()
}

// handOver hands a client over, and reports whether that is done. If not it is served on.
func (s *server) handOver(ctx context.Context, c *client) bool {
	if c.room != nil {
		s.hub.release(c.room, c)
		c.room = nil
	}
	text, err := c.freeze()
	if err == nil && s.handoff(c.conn, text) == nil {
		return true
	}
	c.thaw()
	s.rejoin(ctx, c)
	return false
}

// goOn serves a client of another worker. Of a version that it does not know it only ends
// the frame that is half written, if there is one, to close with 1012.
func (s *server) goOn(ctx context.Context, conn net.Conn, text []byte) {
	c := &client{conn: conn, ping: s.ping}
	err := json.Unmarshal(text, &c.state)
	s.add(c)
	defer s.remove(c)
	if len(c.Unsent) > 0 {
		c.send(c.Unsent)
		c.Unsent = nil
	}
	if err != nil || c.Version != stateVersion {
		s.end(c, statusServiceRestart, "restart")
		return
	}
	s.rejoin(ctx, c)
	s.talk(ctx, c)
}

// rejoin makes a client a member of its room again, as if nothing had happened.
func (s *server) rejoin(ctx context.Context, c *client) {
	if c.Room == "" {
		return
	}
	if err := s.hub.rejoin(ctx, c); err != nil {
		s.unable(c, err)
	}
}
