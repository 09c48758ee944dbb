package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// stream is a reader of events, as curl or a browser is one.
type stream struct {
	t     *testing.T
	conn  net.Conn
	lines *bufio.Reader
}

// listen asks for the events, and checks that a stream begins.
func listen(t *testing.T, at Location, headers ...string) *stream {
	t.Helper()
	s := request(t, at, headers...)
	if head := s.until("\r\n"); !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") || !strings.Contains(head, "Content-Type: text/event-stream\r\n") {
		t.Fatalf("%s", head)
	}
	return s
}

func request(t *testing.T, at Location, headers ...string) *stream {
	t.Helper()
	conn, err := dial(at.socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\n%s\r\n", strings.Join(append(headers, ""), "\r\n"))
	return &stream{t: t, conn: conn, lines: bufio.NewReader(conn)}
}

// until reads up to and with a line.
func (s *stream) until(end string) string {
	s.t.Helper()
	_ = s.conn.SetReadDeadline(time.Now().Add(time.Minute))
	text := ""
	for {
		line, err := s.lines.ReadString('\n')
		text += line
		if err != nil {
			s.t.Fatalf("%v, after %q", err, text)
		}
		if line == end {
			return text
		}
	}
}

// next is one event, comment or sign of life.
func (s *stream) next() string {
	s.t.Helper()
	return s.until("\n")
}

// want checks the next pieces of a stream by their first lines.
func (s *stream) want(first ...string) {
	s.t.Helper()
	for _, want := range first {
		if line, _, _ := strings.Cut(s.next(), "\n"); line != want {
			s.t.Errorf("%q, want %q", line, want)
		}
	}
}

func TestEventsAreReplayedThenFollowed(t *testing.T) {
	b := &fake{app: sample()}
	b.happen("up", "")
	b.happen("ready", "two\nlines")
	at := serving(t, b, patient(), os.Geteuid())
	s := listen(t, at)
	if got, want := s.next(), "id: b-1\nevent: up\n"+
		`data: {"seq":1,"time":"1970-01-01T00:00:01Z","host":"h","type":"up","slot":null,"generation":null,"pid":null,"reason":""}`+"\n\n"; got != want {
		t.Error(cmp.Diff(want, got))
	}
	if got := s.next(); !strings.Contains(got, `"reason":"two\nlines"}`+"\n\n") {
		t.Errorf("%q", got)
	}
	for n := 3; n < 10; n++ {
		b.happen("crashed", "")
		s.want(fmt.Sprintf("id: b-%d", n))
	}
}

func TestEventsGoOnAfterTheLastSeen(t *testing.T) {
	b := &fake{app: sample()}
	for range 3 {
		b.happen("ready", "")
	}
	at := serving(t, b, patient(), os.Geteuid())
	listen(t, at, "Last-Event-ID: b-2").want("id: b-3")
	// Nothing is new: nothing is said again.
	s := listen(t, at, "Last-Event-ID: b-3")
	b.happen("ready", "")
	s.want("id: b-4")
	// Another life's numbers, or nonsense, say nothing.
	for _, id := range []string{"a-3", "a-99", "-", "3", "b-x", "b-99999999999999999999", ""} {
		listen(t, at, "Last-Event-ID: "+id).want("id: b-1", "id: b-2", "id: b-3", "id: b-4")
	}
}

func TestEventsThatWereMissedAreCounted(t *testing.T) {
	b := &fake{app: sample()}
	b.keep = 2
	for range 10 {
		b.happen("crashed", "")
	}
	at := serving(t, b, patient(), os.Geteuid())
	listen(t, at).want("id: b-9", "id: b-10") // who begins has missed nothing
	listen(t, at, "Last-Event-ID: b-5").want(": 3 events missed", "id: b-9", "id: b-10")
	listen(t, at, "Last-Event-ID: b-8").want("id: b-9", "id: b-10")
	listen(t, at, "Last-Event-ID: a-8").want(": 8 events missed", "id: b-9", "id: b-10")
}

func TestEventsAsAList(t *testing.T) {
	b := &fake{app: sample()}
	b.keep = 2
	at := serving(t, b, patient(), os.Geteuid())
	if code, header, text := ask(t, at, "GET", "/v1/events?follow=0", ""); code != 200 || text != "[]" || header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s", code, text)
	}
	for range 3 {
		b.happen("ready", "")
	}
	for _, headers := range [][]string{{"Accept: application/json"}, {"Accept: text/plain, application/json;q=0.5"}} {
		text := request(t, at, headers...).rest()
		if !strings.Contains(text, "\r\nLast-Event-Id: b-3\r\n") || !strings.Contains(text, "\r\n\r\n"+`[{"seq":2,`) {
			t.Errorf("%v: %s", headers, text)
		}
	}
	if text := request(t, at, "Accept: application/json", "Last-Event-ID: b-2").rest(); !strings.Contains(text, "\r\n\r\n"+`[{"seq":3,`) {
		t.Error(text)
	}
	listen(t, at, "Accept: */*").want("id: b-2")
	listen(t, at, "Accept: text/event-stream").want("id: b-2")
	if code, _, text := ask(t, at, "GET", "/v1/events?follow=maybe", ""); code != 400 {
		t.Errorf("%d %s", code, text)
	}
}

func (s *stream) rest() string {
	s.t.Helper()
	_ = s.conn.SetReadDeadline(time.Now().Add(time.Minute))
	data, err := io.ReadAll(s.lines)
	if err != nil {
		s.t.Error(err)
	}
	return string(data)
}

func TestStreamsAreCounted(t *testing.T) {
	b := &fake{app: sample()}
	b.happen("up", "")
	at := serving(t, b, patient(), os.Geteuid())
	var all []*stream
	for range standard().streams {
		s := listen(t, at)
		s.want("id: b-1")
		all = append(all, s)
	}
	code, _, text := ask(t, at, "GET", "/v1/events", "")
	if code != 503 || text != `{"error":"32 readers follow already: ask for what is kept, with ?follow=0"}` {
		t.Errorf("the 33rd: %d %s", code, text)
	}
	if code, _, _ := ask(t, at, "GET", "/v1/events?follow=0", ""); code != 200 {
		t.Errorf("a list: %d", code)
	}
	// A place is free again when a reader has left, at once and not at the next event.
	all[0].conn.Close()
	for deadline := time.Now().Add(time.Minute); ; {
		s := request(t, at)
		if head := s.until("\r\n"); strings.HasPrefix(head, "HTTP/1.1 200 OK") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no place is free")
		}
	}
	b.happen("ready", "")
	for _, s := range all[1:] {
		s.want("id: b-2")
	}
}

func TestStreamShowsThatItLives(t *testing.T) {
	l := patient()
	l.heartbeat = 10 * time.Millisecond
	b := &fake{app: sample()}
	b.happen("up", "")
	s := listen(t, serving(t, b, l, os.Geteuid()))
	s.want("id: b-1", ":", ":", ":")
	b.happen("ready", "")
	for range 100 {
		if text := s.next(); text != ":\n\n" {
			if !strings.HasPrefix(text, "id: b-2\n") {
				t.Errorf("%q", text)
			}
			return
		}
	}
	t.Error("only signs of life")
}

// A reader that does not read is let go, and others go on.
func TestStreamThatIsNotReadIsLetGo(t *testing.T) {
	l := patient()
	l.write = time.Second
	l.streams = 2
	b := &fake{app: sample()}
	b.keep = 10
	at := serving(t, b, l, os.Geteuid())
	b.happen("up", "")
	deaf := listen(t, at)
	deaf.want("id: b-1")
	s := listen(t, at)
	s.want("id: b-1")
	long := strings.Repeat("x", 100_000)
	for n := 2; n < 22; n++ { // more than the socket's buffer takes
		b.happen("crashed", long)
		s.want(fmt.Sprintf("id: b-%d", n))
	}
	for deadline := time.Now().Add(time.Minute); ; {
		third := request(t, at) // has the place of the deaf one
		if head := third.until("\r\n"); strings.HasPrefix(head, "HTTP/1.1 200 OK") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("it has kept its place")
		}
	}
}

// The end of the server ends the streams, after what was the last to happen.
func TestStreamsEndWithTheServer(t *testing.T) {
	b := &fake{app: sample()}
	b.happen("up", "")
	followed := make(chan error, 1)
	var seen []string
	t.Run("serving", func(t *testing.T) {
		at := serving(t, b, patient(), os.Geteuid())
		c, err := Connect(at)
		if err != nil {
			t.Fatal(err)
		}
		first := make(chan struct{})
		go func() {
			defer c.Close()
			followed <- c.Events(context.Background(), "", true, func(id string, e Event) error {
				seen = append(seen, id+" "+e.Type)
				if len(seen) == 1 {
					close(first)
				}
				return nil
			})
		}()
		<-first
		t.Cleanup(func() { // before the one that closes the server
			b.happen("down", "")
		})
	})
	if err := <-followed; err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"b-1 up", "b-2 down"}, seen); diff != "" {
		t.Error(diff)
	}
}

func TestClientFollowsEvents(t *testing.T) {
	b := &fake{app: sample()}
	b.happen("up", "")
	b.happen("ready", "r")
	at := serving(t, b, patient(), os.Geteuid())
	c := connect(t, at)
	enough := errors.New("enough")
	var got []string
	note := func(id string, e Event) error {
		got = append(got, id+" "+e.Type+" "+e.Reason)
		if e.Type == "failed" {
			return enough
		}
		b.happen("failed", "")
		return nil
	}
	if err := c.Events(t.Context(), "b-1", true, note); !errors.Is(err, enough) {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"b-2 ready r", "b-3 failed "}, got); diff != "" {
		t.Error(diff)
	}
	got = nil
	if err := c.Events(t.Context(), "b-1", false, func(id string, _ Event) error { got = append(got, id); return nil }); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"b-2", "b-3"}, got); diff != "" {
		t.Error(diff)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := c.Events(ctx, "b-2", true, func(string, Event) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("after Ctrl-C: %v", err)
	}
}

// What ends without a last word has vanished; one that says nothing at all does
// not answer.
func TestClientOfAMasterThatVanishes(t *testing.T) {
	dir := t.TempDir()
	cmd := startMaster(t, dir)
	c := connect(t, Location{Name: "shop", Dir: dir})
	err := c.Events(t.Context(), "", true, func(string, Event) error { return cmd.Process.Kill() })
	silent, ok := errors.AsType[*NoAnswerError](err)
	if !ok || !strings.Contains(silent.Why, "has ended") {
		t.Errorf("%v", err)
	}
}

func TestClientOfAServerThatRefusesToFollow(t *testing.T) {
	l := patient()
	l.streams = 0
	c := connect(t, serving(t, &fake{app: sample()}, l, os.Geteuid()))
	err := c.Events(t.Context(), "", true, func(string, Event) error { return nil })
	if refusal, ok := errors.AsType[*Error](err); !ok || refusal.Code != http.StatusServiceUnavailable {
		t.Errorf("%v", err)
	}
}
