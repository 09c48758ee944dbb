package main

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/forkd/forkd/examples/websocket/chat"
	"github.com/forkd/forkd/worker"
)

const (
	handshakeTimeout = 5 * time.Second
	maxHead          = 8 << 10 // bytes of the opening handshake
	acceptRetry      = 50 * time.Millisecond
)

// server is what one worker serves.
type server struct {
	plane   *plane
	hub     *hub
	host    string
	slot    string
	origins []string
	ping    time.Duration
	counted func() bool                  // counts a message: Worker.Request
	handoff func(net.Conn, []byte) error // Worker.Handoff
	paced   atomic.Int64                 // how many forkd wants closed during a drain

	mu      sync.Mutex
	clients list.List // of *client, oldest first
}

// accept accepts until the listener is closed.
func (s *server) accept(ctx context.Context, ln net.Listener) error {
	worker.Refuse(ln, s.refuse)
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			worker.Mark(conn, worker.Expecting)
			go s.serve(ctx, conn)
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
			time.Sleep(acceptRetry)
		default:
			return err
		}
	}
}

// request is what the opening handshake asks for.
type request struct {
	room    string
	session string
	last    *chat.ID
}

// upgrade answers the opening handshake, also one that is wrong. What the client has
// sent after it is in ahead.
func (s *server) upgrade(conn net.Conn) (r request, ahead []byte, err error) {
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	defer func() { _ = conn.SetDeadline(time.Time{}) }()
	head, ahead, err := readHead(conn)
	if err != nil {
		return r, nil, err
	}
	var host, origin string
	_, err = ws.Upgrader{
		OnRequest: func(uri []byte) (err error) {
			r, err = parse(string(uri))
			return err
		},
		OnHost: func(value []byte) error { host = string(value); return nil },
		OnHeader: func(key, value []byte) error {
			if string(key) == "Origin" {
				origin = string(value)
			}
			return nil
		},
		OnBeforeUpgrade: func() (ws.HandshakeHeader, error) {
			if !s.allowed(origin, host) {
				return nil, reject(http.StatusForbidden, "origin not allowed")
			}
			return nil, nil
		},
	}.Upgrade(struct {
		io.Reader
		io.Writer
	}{strings.NewReader(head), conn})
	return r, ahead, err
}

// readHead reads the head of a request. What came with it is ahead.
func readHead(conn net.Conn) (head string, ahead []byte, err error) {
	buf := make([]byte, 0, 512)
	for {
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, len(buf))
		}
		n, err := conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if head, rest, ok := strings.Cut(string(buf), "\r\n\r\n"); ok {
			return head + "\r\n\r\n", []byte(rest), nil
		}
		if err != nil {
			return "", nil, err
		}
		if len(buf) > maxHead {
			return "", nil, errors.New("the opening handshake is too long")
		}
	}
}

// parse reads /ROOM?session=ID&last=ID, all of which may be missing.
func parse(uri string) (r request, err error) {
	u, err := url.ParseRequestURI(uri)
	if err != nil {
		return r, reject(http.StatusBadRequest, "not a URL")
	}
	r.room, r.session = strings.TrimPrefix(u.Path, "/"), u.Query().Get("session")
	if r.room != "" && !validName(r.room) {
		return r, reject(http.StatusNotFound, "not a name of a room")
	}
	if last := u.Query().Get("last"); last != "" {
		id, err := chat.ParseID(last)
		if err != nil {
			return r, reject(http.StatusBadRequest, "last is not an ID")
		}
		r.last = &id
	}
	return r, nil
}

func reject(status int, reason string) error {
	return ws.RejectConnectionError(ws.RejectionStatus(status), ws.RejectionReason(reason))
}

// allowed reports whether a page of an origin may connect: browsers let any page, and
// send the user's cookies along. Programs send no origin.
func (s *server) allowed(origin, host string) bool {
	if origin == "" || slices.Contains(s.origins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && len(s.origins) == 0 && strings.EqualFold(u.Host, host)
}

// refuse answers a connection over the worker's limit.
func (s *server) refuse(conn net.Conn) {
	if _, _, err := s.upgrade(conn); err != nil {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(closeTimeout))
	frame := ws.NewCloseFrame(ws.NewCloseFrameBody(statusTryAgainLater, "full"))
	if ws.WriteFrame(conn, frame) != nil {
		return
	}
	// If it were closed with something unread, a reset might overtake the frame.
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, conn)
	}
}

// serve serves one connection.
func (s *server) serve(ctx context.Context, conn net.Conn) {
	request, ahead, err := s.upgrade(conn)
	if err != nil {
		conn.Close()
		return
	}
	worker.Mark(conn, worker.Hijacked) // a drain leaves it to us
	c := &client{conn: conn, ping: s.ping, state: state{Ahead: ahead}}
	s.add(c)
	defer s.remove(c)
	if err := s.welcome(ctx, c, request); err != nil {
		s.unable(c, err)
	}
	s.talk(ctx, c)
}

// talk serves a client until its connection ends, or another worker has it.
func (s *server) talk(ctx context.Context, c *client) {
	code, reason := s.read(ctx, c)
	for c.isMoving() {
		if s.handOver(ctx, c) {
			return
		}
		code, reason = s.read(ctx, c)
	}
	s.end(c, code, reason)
}

// end ends a connection, with a close frame unless code is 0.
func (s *server) end(c *client, code ws.StatusCode, reason string) {
	if code != 0 && c.close(code, reason) {
		// It may have sent more already, and see a reset before the close frame if nobody reads it.
		_, _ = io.Copy(io.Discard, c.conn)
	}
	if c.room != nil {
		s.hub.release(c.room, c)
	}
	c.end()
}

// unable closes a connection because Redis does not answer.
func (s *server) unable(c *client, err error) {
	if c.close(statusTryAgainLater, "try again later") {
		log.Printf("cannot serve a client: %v", err)
	}
}

func (s *server) welcome(ctx context.Context, c *client, r request) error {
	session, err := s.plane.open(ctx, r.session)
	if err != nil {
		return err
	}
	c.Session = session.id
	c.send(encode(chat.Event{
		Type: chat.Welcome, Session: session.id, Resumed: session.resumed, Visits: session.visits, Said: session.said,
		Host: s.host, Slot: s.slot, PID: os.Getpid(),
	}))
	if r.room == "" {
		r.room = session.room
	}
	if r.room == "" {
		return nil
	}
	return s.hub.join(ctx, c, r.room, r.last)
}

// read reads messages until the connection ends, and returns how it is to be closed; 0
// if it is, or the client is gone.
func (s *server) read(ctx context.Context, c *client) (ws.StatusCode, string) {
	in := wsutil.Reader{
		Source: c, State: ws.StateServerSide, CheckUTF8: true, MaxMessageSize: maxMessage,
		OnIntermediate: func(h ws.Header, payload io.Reader) error { return control(c, h, payload) },
	}
	for {
		h, err := in.NextFrame()
		if err == nil && h.OpCode.IsControl() {
			if err = control(c, h, &in); err == nil {
				continue
			}
		}
		var text []byte
		if err == nil {
			text, err = io.ReadAll(&in)
		}
		if err == nil && c.isMoving() {
			return 0, "" // it is for the next worker
		}
		var protocol ws.ProtocolError
		switch {
		case errors.As(err, &protocol):
			return ws.StatusProtocolError, protocol.Error()
		case errors.Is(err, wsutil.ErrMessageTooLarge):
			return ws.StatusMessageTooBig, fmt.Sprintf("at most %d bytes", maxMessage)
		case errors.Is(err, wsutil.ErrInvalidUTF8):
			return ws.StatusInvalidFramePayloadData, "not UTF-8"
		case err != nil:
			return 0, ""
		case h.OpCode != ws.OpText:
			return ws.StatusUnsupportedData, "text only"
		}
		s.handle(ctx, c, text)
		c.handled()
	}
}

var errClosed = errors.New("closed by the client")

// control answers a control frame.
func control(c *client, h ws.Header, payload io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(payload, ws.MaxControlFramePayloadSize))
	if err != nil {
		return err
	}
	switch h.OpCode {
	case ws.OpPing:
		c.send(ws.MustCompileFrame(ws.NewPongFrame(data)))
	case ws.OpClose:
		c.closeWith(data[:min(len(data), 2)]) // its code, in answer
		return errClosed
	default: // a pong: that it has come is enough
	}
	c.handledControl(h)
	return nil
}

// handle does what a client asks for. A client that is being closed is asked nothing
// more: it will ask again, elsewhere.
func (s *server) handle(ctx context.Context, c *client, text []byte) {
	if c.isClosing() {
		return
	}
	s.counted()
	var r chat.Request
	if err := json.Unmarshal(text, &r); err != nil {
		s.fail(c, "not a request: "+err.Error())
		return
	}
	if r.Join != "" {
		if !validName(r.Join) {
			s.fail(c, "not a name of a room")
			return
		}
		if c.room != nil {
			s.hub.release(c.room, c)
			c.room, c.Room = nil, ""
		}
		if err := s.hub.join(ctx, c, r.Join, r.Last); err != nil {
			s.unable(c, err)
			return
		}
	}
	switch {
	case r.Say == "":
	case c.room == nil:
		s.fail(c, "in no room: join one")
	default:
		// It is said when the client gets it back.
		if err := s.plane.say(ctx, c.Session, c.Room, r.Say); err != nil {
			s.unable(c, err)
		}
	}
}

func (s *server) fail(c *client, reason string) {
	c.send(encode(chat.Event{Type: chat.Failed, Error: reason}))
}

func (s *server) add(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.element = s.clients.PushBack(c)
}

func (s *server) remove(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients.Remove(c.element)
}

// closeOldest closes up to n of the clients that came first, and are not moving.
func (s *server) closeOldest(n int, code ws.StatusCode, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.clients.Front(); e != nil && n > 0; e = e.Next() {
		if c := e.Value.(*client); !c.isMoving() && c.close(code, reason) {
			n--
		}
	}
}

// open is how many clients there are.
func (s *server) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients.Len()
}
