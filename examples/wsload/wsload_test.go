package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/forkd/forkd/examples/websocket/chat"
)

const timeout = 5 * time.Minute

// bad is a server that treats each connection as its plan says. When the plan is over,
// connections stay open.
type bad struct {
	plan []string

	mu   sync.Mutex
	next int
}

func (b *bad) serve(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		what := "stay"
		if b.next < len(b.plan) {
			what = b.plan[b.next]
		}
		b.next++
		b.mu.Unlock()
		go b.treat(conn, what)
	}
}

func (b *bad) treat(conn net.Conn, what string) {
	defer conn.Close()
	if what == "503" {
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		_, _ = io.WriteString(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	if what == "hang up" {
		return
	}
	if _, err := ws.Upgrade(conn); err != nil {
		return
	}
	send := func(e chat.Event) {
		text, _ := json.Marshal(e)
		_, _ = conn.Write(ws.MustCompileFrame(ws.NewTextFrame(text)))
	}
	bye := func(code ws.StatusCode) {
		_, _ = conn.Write(ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(code, ""))))
	}
	id := func(epoch, seq uint64) *chat.ID { return &chat.ID{Epoch: epoch, Seq: seq} }
	// The rest of a connection: until the client's close frame.
	defer func() {
		in := wsutil.NewReader(conn, ws.StateServerSide)
		for {
			if h, err := in.NextFrame(); err != nil || h.OpCode == ws.OpClose || in.Discard() != nil {
				return
			}
		}
	}()
	if what == "full" {
		bye(1013)
		return
	}
	send(chat.Event{Type: chat.Welcome, Session: "s", Resumed: what != "forget", Host: "h"})
	send(chat.Event{Type: chat.Joined, Room: "r", ID: id(5, 10)})
	numbers := func(all ...*chat.ID) {
		for _, id := range all {
			send(chat.Event{Type: chat.Message, Room: "r", ID: id})
		}
	}
	switch what {
	case "cut":
		conn.Close()
	case "reset":
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	case "restart":
		bye(1012)
	case "shed":
		bye(1013)
	case "forget", "go":
		bye(1001)
	case "miss":
		numbers(id(5, 11), id(5, 14), id(5, 15), id(5, 15), id(5, 12))
		bye(1012)
	case "forget room":
		numbers(id(6, 1), id(6, 2))
		bye(1012)
	}
}

// reports reads what run prints.
func reports(t *testing.T, orders io.Reader, args ...string) (<-chan Report, <-chan error) {
	t.Helper()
	out, in := io.Pipe()
	all, ended := make(chan Report, 1000), make(chan error, 1)
	go func() {
		err := run(t.Context(), append([]string{"-json"}, args...), orders, in, io.Discard)
		in.Close()
		ended <- err
	}()
	go func() {
		defer close(all)
		for lines := json.NewDecoder(out); ; {
			var r Report
			if lines.Decode(&r) != nil {
				return
			}
			all <- r
		}
	}()
	return all, ended
}

// wait returns the first report that is as it should be.
func wait(t *testing.T, all <-chan Report, what string, good func(Report) bool) (last Report) {
	t.Helper()
	deadline := time.After(timeout)
	for {
		select {
		case r, more := <-all:
			if !more {
				t.Fatalf("no report of %s, at the end %+v", what, last)
			}
			if last = r; good(r) {
				return r
			}
		case <-deadline:
			t.Fatalf("no report of %s, but %+v", what, last)
		}
	}
}

// One user tells one by one what a bad server does to it.
func TestReportOfABadServer(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	b := &bad{plan: []string{
		"hang up", "503", "full", "cut", "reset", "restart", "restart", "shed", "forget", "go", "go", "full", "miss", "forget room",
	}}
	go b.serve(ln)
	orders, order := io.Pipe()
	defer order.Close()
	all, ended := reports(t, orders, "-users", "1", "-say", "0", "-backoff", "2ms", "-backoff-max", "20ms", "ws://"+ln.Addr().String())
	wait(t, all, "an open connection", func(r Report) bool { return r.Open == 1 && r.Resets == 1 && r.Restarted == 4 })
	_, _ = io.WriteString(order, "quit\n")
	got := wait(t, all, "the end", func(r Report) bool { return r.Final })
	if err := <-ended; err != nil {
		t.Error(err)
	}
	want := Report{
		Final: true, Users: 1, Open: 1, Opened: 11, Lost: 2, Restarted: 4, Shed: 1, Refused: 3, Failed: 1, Closed: 3, Left: 1,
		Received: 7, Missed: 2, Doubled: 2, Resets: 1, Forgotten: 1,
	}
	if got.Back.Count != 10 || got.Back.Max <= 0 || got.Back.Max < got.Back.P50 || got.Back.P99 < got.Back.P50 || got.Hosts["h"] != 1 {
		t.Errorf("back %+v, hosts %v", got.Back, got.Hosts)
	}
	got.Back, got.Hosts, got.Seconds, got.LastError = Times{}, nil, 0, ""
	gotJSON, _ := json.Marshal(got)
	wantJSON, _ := json.Marshal(want)
	if string(gotJSON) != string(wantJSON) {
		t.Errorf("reported %s\nwant     %s", gotJSON, wantJSON)
	}
}

// Orders change how many there are; half of a host's users leave for good.
func TestOrders(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go (&bad{}).serve(ln)
	orders, order := io.Pipe()
	defer order.Close()
	all, ended := reports(t, orders, "-users", "10", "-rate", "1000", "-sources", "127.0.0.1-127.0.0.3", "ws://"+ln.Addr().String())
	give := func(what string) { _, _ = io.WriteString(order, what+"\n") }
	open := func(n int) func(Report) bool { return func(r Report) bool { return r.Open == n && r.Users == n } }
	wait(t, all, "10 users", open(10))
	give("users 200")
	wait(t, all, "200 users", open(200))
	give("leave elsewhere 100")
	give("leave h 50")
	wait(t, all, "half of them", open(100))
	give("nonsense")
	give("users many")
	give("users 30")
	wait(t, all, "30 users", open(30))
	give("say 500")
	wait(t, all, "messages", func(r Report) bool { return r.Said > 100 })
	give("quit")
	r := wait(t, all, "the end", func(r Report) bool { return r.Final })
	if err := <-ended; err != nil || r.Left != 200 || r.Lost+r.Failed+r.Closed > 0 {
		t.Errorf("at the end %+v, %v", r, err)
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", "-users -1 ws://x", "-rate 0 ws://x", "-backoff 2s -backoff-max 1s ws://x", "-sources x ws://x",
		"-sources 127.0.0.2-127.0.0.1 ws://x", "-sources 127.0.0.1-::1 ws://x", "-sources 127.0.0.1-127.1.0.0 ws://x",
		"http://x", "127.0.0.1:8080", "ws:///room", "ws://x http://x",
	} {
		if _, err := parse(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	o, err := parse(strings.Fields("-sources 127.0.0.1,127.0.0.8-127.0.1.1 ws://x"), io.Discard)
	if err != nil || len(o.sources) != 251 {
		t.Errorf("%d sources, %v", len(o.sources), err)
	}
}

// A line says what is not 0, and why attempts fail.
func TestPrint(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	r := Report{
		Seconds: 3, Users: 30, Open: 20, Failed: 2, Back: Times{Count: 1, P50: 0.25, P99: 0.5, Max: 1},
		Said: 5, Hosts: map[string]int{"web-2": 5, "web-1": 15}, LastError: "no route",
	}
	for _, withError := range []bool{false, true} {
		if err := r.print(&text, false, withError); err != nil {
			t.Fatal(err)
		}
	}
	line := "   3s users 30 open 20 failed 2 back 1 (p50 0.25s p99 0.50s max 1.00s) said 5 on web-1 15, web-2 5\n"
	if want := line + line + "      the last error: no route\n"; text.String() != want {
		t.Errorf("printed\n%swant\n%s", text.String(), want)
	}
}

// Who can't reach the server is told why each second, not only at the end.
func TestErrorsAreShown(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() { // a web server that knows no WebSockets
		_ = http.Serve(ln, http.NotFoundHandler())
	}()
	out, in := io.Pipe()
	go func() {
		in.CloseWithError(run(t.Context(), []string{"-users", "1", "-duration", timeout.String(), "ws://" + ln.Addr().String()}, strings.NewReader(""), in, io.Discard))
	}()
	defer out.Close()
	for lines := bufio.NewScanner(out); lines.Scan() && !strings.Contains(lines.Text(), " end "); {
		if strings.Contains(lines.Text(), "the last error: ") && strings.Contains(lines.Text(), "404") {
			return
		}
	}
	t.Error("no error is shown")
}

func TestHistogram(t *testing.T) {
	t.Parallel()
	var h histogram
	for ms := range 1000 {
		h.record(time.Duration(ms+1) * time.Millisecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond, 1: time.Second, 0: time.Millisecond} {
		if got := h.quantile(q); got < want || float64(got) > float64(want)*width+1 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if (&histogram{}).quantile(0.5) != 0 {
		t.Error("nothing takes time")
	}
	h.record(10 * time.Hour)
	if got := h.quantile(1); got > 10*time.Hour || h.longest != 10*time.Hour {
		t.Errorf("the longest is %v, %v", got, h.longest)
	}
}

// A user's own messages come back once and in order, but for those whose connection has ended.
func TestOwnMessages(t *testing.T) {
	t.Parallel()
	c := newCrowd(options{})
	u, other := &user{crowd: c, number: 1}, &user{crowd: c, number: 11}
	hear := func(numbers ...int) {
		for _, n := range numbers {
			u.hearOwn(u.signature() + strconv.Itoa(n))
			u.hearOwn(other.signature() + "99")
		}
	}
	hear(1, 2, 4, 7) // without 3, 5, 6
	u.excused = 10
	hear(9, 12) // without 11
	hear(12, 13, 9)
	if unheard, repeated := c.seen.sum.Unheard, c.seen.sum.Repeated; unheard != 4 || repeated != 2 {
		t.Errorf("%d unheard, %d repeated", unheard, repeated)
	}
}
