package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/examples/websocket/chat"
)

const timeout = 5 * time.Minute

// serve starts a server without forkd and Redis, and returns its address.
func serve(t *testing.T, change func(*server)) string {
	t.Helper()
	plane, err := openPlane("")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{plane: plane, hub: newHub(plane), host: "here", ping: timeout, counted: func() bool { return false }}
	if change != nil {
		change(s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go s.hub.run(ctx)
	ended := make(chan error)
	go func() { ended <- s.accept(ctx, ln) }()
	t.Cleanup(func() {
		ln.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		for end := time.Now().Add(timeout); s.open() > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
			s.closeOldest(s.open(), statusServiceRestart, "")
		}
		cancel()
		plane.close()
	})
	return ln.Addr().String()
}

// dial opens a connection on which everything is written by hand.
func dial(t *testing.T, address, path string, header http.Header) (net.Conn, io.Reader, error) {
	t.Helper()
	d := ws.Dialer{Timeout: timeout, Header: ws.HandshakeHeaderHTTP(header)}
	conn, early, _, err := d.Dial(t.Context(), "ws://"+address+path)
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	if early != nil {
		return conn, early, nil
	}
	return conn, conn, nil
}

// event reads events until there is one of a type; "": any.
func event(t *testing.T, in io.Reader, kind string) chat.Event {
	t.Helper()
	for {
		text, err := wsutil.ReadServerText(struct {
			io.Reader
			io.Writer
		}{in, io.Discard})
		var e chat.Event
		if err == nil {
			err = json.Unmarshal(text, &e)
		}
		if err != nil {
			t.Fatalf("waiting for %q: %v", kind, err)
		}
		if kind == "" || e.Type == kind {
			return e
		}
	}
}

// code reads until the close frame, and returns its code; the connection must end then.
func code(t *testing.T, in io.Reader) ws.StatusCode {
	t.Helper()
	for {
		op, payload, err := frame(in)
		if err != nil {
			t.Fatalf("no close frame: %v", err)
		}
		if op == ws.OpClose {
			code, _ := ws.ParseCloseFrameData(payload)
			return code
		}
	}
}

func frame(in io.Reader) (ws.OpCode, []byte, error) {
	r := wsutil.NewClientSideReader(in)
	r.MaxFrameSize = 1 << 20
	h, err := r.NextFrame()
	if err != nil {
		return 0, nil, err
	}
	payload, err := io.ReadAll(r)
	return h.OpCode, payload, err
}

func masked(op ws.OpCode, fin bool, payload string) []byte {
	return ws.MustCompileFrame(ws.MaskFrameInPlace(ws.NewFrame(op, fin, []byte(payload))))
}

func TestWhatClientsDoWrong(t *testing.T) {
	t.Parallel()
	address := serve(t, nil)
	long := masked(ws.OpText, true, strings.Repeat("x", maxMessage+1))
	fragment := masked(ws.OpText, false, strings.Repeat("x", maxMessage))
	for name, c := range map[string]struct {
		sends []byte
		code  ws.StatusCode
	}{
		"a long message":   {long, 1009},
		"long in parts":    {append(fragment, masked(ws.OpContinuation, true, "x")...), 1009},
		"binary":           {masked(ws.OpBinary, true, "x"), 1003},
		"no UTF-8":         {masked(ws.OpText, true, "\xff"), 1007},
		"no mask":          {ws.MustCompileFrame(ws.NewTextFrame([]byte("{}"))), 1002},
		"a lone rest":      {masked(ws.OpContinuation, true, "x"), 1002},
		"a long ping":      {masked(ws.OpPing, true, strings.Repeat("x", 126)), 1002},
		"close":            {masked(ws.OpClose, true, "\x03\xe8bye"), 1000},
		"more after it":    {append(masked(ws.OpBinary, true, "x"), bytes.Repeat(long, 100)...), 1003},
		"close in a part":  {append(masked(ws.OpText, false, "{"), masked(ws.OpClose, true, "\x03\xe9")...), 1001},
		"unknown op codes": {masked(3, true, "x"), 1002},
	} {
		t.Run(name, func(t *testing.T) {
			conn, in, err := dial(t, address, "/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(c.sends); err != nil {
				t.Fatal(err)
			}
			if got := code(t, in); got != c.code {
				t.Errorf("closed with %d, want %d", got, c.code)
			}
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.CloseWrite() // the client's close
			}
			if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
				t.Errorf("then %q, %v", rest, err)
			}
		})
	}
}

// Requests that can't be done are answered, and the connection goes on.
func TestRequests(t *testing.T) {
	t.Parallel()
	conn, in, err := dial(t, serve(t, nil), "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{`{`, `[]`, `{"say":"x"}`, `{"join":"a/b"}`, `{"join":"` + strings.Repeat("a", 65) + `"}`, `{"join":"a","last":"x"}`} {
		if _, err := conn.Write(masked(ws.OpText, true, bad)); err != nil {
			t.Fatal(err)
		}
		event(t, in, chat.Failed)
	}
	// In three parts with a ping between.
	for _, part := range [][]byte{
		masked(ws.OpText, false, `{"join":"a",`), masked(ws.OpPing, true, "?"), masked(ws.OpContinuation, false, `"say":`),
		masked(ws.OpContinuation, true, `"h\u00e9"}`),
	} {
		if _, err := conn.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if op, payload, err := frame(in); err != nil || op != ws.OpPong || string(payload) != "?" {
		t.Errorf("a ping is answered with %v %q, %v", op, payload, err)
	}
	if e := event(t, in, chat.Message); e.Text != "hé" || e.Room != "a" || e.ID.Seq != 1 {
		t.Errorf("got %+v", e)
	}
}

// Messages come in order and once, whatever the client says that it has.
func TestLast(t *testing.T) {
	t.Parallel()
	address := serve(t, nil)
	first, in, err := dial(t, address, "/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	session := event(t, in, chat.Welcome).Session
	if e := event(t, in, chat.Joined); *e.ID != (chat.ID{}) {
		t.Errorf("a new room begins at %v", e.ID)
	}
	var ids []chat.ID
	for range keptMessages + 10 {
		if _, err := first.Write(masked(ws.OpText, true, `{"say":"x"}`)); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, *event(t, in, chat.Message).ID)
	}
	newest := ids[len(ids)-1]
	oldest := newest.Seq - keptMessages + 1
	for name, c := range map[string]struct {
		last string
		from uint64 // the first message that comes
	}{
		"none":             {"", newest.Seq + 1},
		"the newest":       {newest.String(), newest.Seq + 1},
		"the last but two": {ids[len(ids)-3].String(), newest.Seq - 1},
		"one of the first": {ids[3].String(), oldest},
		"before all":       {"0-0", oldest},
		"a forgotten room": {"7-99", oldest},
		"of tomorrow":      {"9999999999999-1", newest.Seq + 1},
	} {
		t.Run(name, func(t *testing.T) {
			conn, in, err := dial(t, address, "/a?last="+c.last+"&session="+session, nil)
			if err != nil {
				t.Fatal(err)
			}
			if e := event(t, in, chat.Welcome); !e.Resumed || e.Said != keptMessages+10 {
				t.Errorf("the session does not go on: %+v", e)
			}
			event(t, in, chat.Joined)
			if _, err := conn.Write(masked(ws.OpText, true, `{"join":"b"}`)); err != nil {
				t.Fatal(err)
			}
			next := c.from
			for e := event(t, in, ""); e.Type == chat.Message; e = event(t, in, "") {
				if e.ID.Seq != next {
					t.Fatalf("got %v, want number %d", e.ID, next)
				}
				next++
			}
			if next != newest.Seq+1 {
				t.Errorf("the last one is number %d, want %d", next-1, newest.Seq)
			}
		})
	}
}

// What pub/sub has lost is read from the stream, before what comes after it.
func TestGap(t *testing.T) {
	t.Parallel()
	var p *plane
	address := serve(t, func(s *server) { p = s.plane })
	conn, in, err := dial(t, address, "/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	next := uint64(1)
	hear := func(text string) chat.ID {
		t.Helper()
		e := event(t, in, chat.Message)
		if e.ID.Seq != next || e.Text != text {
			t.Fatalf("got %+v number %v, want %q number %d", e, e.ID, text, next)
		}
		next++
		return *e.ID
	}
	for range 10 {
		if _, err := conn.Write(masked(ws.OpText, true, `{"say":"said"}`)); err != nil {
			t.Fatal(err)
		}
		if next > 1 {
			hear("lost")
		}
		lost := redis.XAddArgs{Stream: roomKey("a"), ID: hear("said").Next().String(), Values: []string{"m", `{"text":"lost"}`}}
		if err := p.client.XAdd(t.Context(), &lost).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	own, listed := serve(t, nil), serve(t, func(s *server) { s.origins = []string{"https://chat.example"} })
	for _, c := range []struct {
		address, origin string
		allowed         bool
	}{
		{own, "", true},
		{own, "http://" + own, true},
		{own, "https://evil.example", false},
		{own, "null", false},
		{listed, "https://chat.example", true},
		{listed, "http://chat.example", false},
		{listed, "http://" + listed, false},
		{listed, "", true},
	} {
		header := http.Header{}
		if c.origin != "" {
			header.Set("Origin", c.origin)
		}
		_, _, err := dial(t, c.address, "/", header)
		var status ws.StatusError
		if errors.As(err, &status); (err == nil) != c.allowed || err != nil && int(status) != http.StatusForbidden {
			t.Errorf("origin %q: %v", c.origin, err)
		}
	}
}

// A handshake that is no handshake, or never ends, is answered or cut off.
func TestHandshake(t *testing.T) {
	t.Parallel()
	address := serve(t, nil)
	for name, c := range map[string][2]string{
		"a page":         {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 4"},
		"a bad room":     {handshake("/a/b"), "HTTP/1.1 404"},
		"a bad last":     {handshake("/a?last=1"), "HTTP/1.1 400"},
		"no HTTP":        {"hello\r\n\r\n", ""},
		"an endless one": {"GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 2*maxHead), ""},
		// The first frame comes with the handshake: it is not lost.
		"in a hurry": {handshake("/") + string(masked(ws.OpClose, true, "\x03\xe8")), "HTTP/1.1 101"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, c[0])
			answer, _ := io.ReadAll(conn)
			if !strings.HasPrefix(string(answer), c[1]) || c[1] == "" && len(answer) > 0 {
				t.Errorf("answered %q", answer)
			}
			if name == "in a hurry" && !bytes.HasSuffix(answer, []byte("\x88\x02\x03\xe8")) {
				t.Errorf("its frame is not answered: %q", answer)
			}
		})
	}
}

func handshake(uri string) string {
	return "GET " + uri + " HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
}

// A client that reads nothing is cut off when too much waits for it, and others of its
// room see nothing of it.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	var s *server
	address := serve(t, func(made *server) { s = made })
	slow, slowIn, err := dial(t, address, "/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := slow.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	event(t, slowIn, chat.Joined)
	conn, in, err := dial(t, address, "/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	event(t, in, chat.Joined)
	said := `{"say":"` + strings.Repeat("x", maxMessage-20) + `"}`
	for end := time.Now().Add(timeout); s.open() == 2; {
		if _, err := conn.Write(masked(ws.OpText, true, said)); err != nil {
			t.Fatal(err)
		}
		event(t, in, chat.Message)
		if time.Now().After(end) {
			t.Fatal("the slow one is still there")
		}
	}
	if _, err := conn.Write(masked(ws.OpText, true, `{"say":"still there"}`)); err != nil {
		t.Fatal(err)
	}
	if e := event(t, in, chat.Message); e.Text != "still there" {
		t.Errorf("got %+v", e)
	}
}

// A silent client is pinged. One that answers stays, one that does not is cut off.
func TestSilentClient(t *testing.T) {
	t.Parallel()
	address := serve(t, func(s *server) { s.ping = 2 * time.Second })
	_, dead, err := dial(t, address, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	alive, in, err := dial(t, address, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	for pings := 0; pings < 3; {
		op, _, err := frame(in)
		if err != nil {
			t.Fatalf("one that answers: %v", err)
		}
		if op == ws.OpPing {
			pings++
			if _, err := alive.Write(masked(ws.OpPong, true, "")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := io.Copy(io.Discard, dead); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("one that does not answer is still there")
	}
}
