package examples_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/forkd/forkd/examples/websocket/chat"
	"github.com/forkd/forkd/test/ports"
)

// chatApp is examples/websocket under forkd, by its forkd.toml, with two workers.
type chatApp struct {
	*master
	redis   *redisServer
	address string
}

// startChat starts it, with keys of its configuration replaced: "old" by "new", in pairs.
func startChat(t *testing.T, replaced ...string) *chatApp {
	t.Helper()
	t.Setenv("FORKD_RUNTIME_DIR", filepath.Join(t.TempDir(), "run"))
	t.Setenv("FORKD_STATE_DIR", filepath.Join(t.TempDir(), "state"))
	bin := build(t, "../cmd/forkd", "./websocket", "./wsload")
	file := install(t, bin, "websocket")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(replaced); i += 2 {
		if !strings.Contains(string(text), replaced[i]) {
			t.Fatalf("no %q in %s", replaced[i], text)
		}
	}
	if err := os.WriteFile(file, []byte(strings.NewReplacer(replaced...).Replace(string(text))), 0o644); err != nil {
		t.Fatal(err)
	}
	r := startRedis(t)
	c := &chatApp{redis: r, address: "127.0.0.1:" + strconv.Itoa(ports.Free(t, 1))}
	c.master = run(t, bin, "chat", bin, []string{
		"WS_REDIS_URL=" + r.url, "FORKD_REDIS_URL=" + r.url, "CHAT_LISTEN=" + c.address, "WS_HOST=here",
	}, "-c", file, "--workers", "2")
	c.ready(t)
	return c
}

// talker is one client. Its last message and its session are its own to keep.
type talker struct {
	conn    net.Conn
	in      io.Reader
	welcome chat.Event
	last    chat.ID
}

// closedWith is the error of a connection that the server has closed.
type closedWith ws.StatusCode

func (c closedWith) Error() string { return fmt.Sprintf("closed with %d", uint16(c)) }

func (c *chatApp) connect(t *testing.T, path string) (*talker, error) {
	t.Helper()
	conn, early, _, err := ws.Dialer{Timeout: patience}.Dial(t.Context(), "ws://"+c.address+path)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	k := &talker{conn: conn, in: conn}
	if early != nil {
		k.in = early
	}
	k.welcome, err = k.event(chat.Welcome)
	return k, err
}

// join connects to a room.
func (c *chatApp) join(t *testing.T, path string) *talker {
	t.Helper()
	k, err := c.connect(t, path)
	if err != nil {
		t.Fatal(err)
	}
	joined, err := k.event(chat.Joined)
	if err != nil {
		t.Fatal(err)
	}
	k.last = *joined.ID
	return k
}

// onSlot connects until it meets a worker.
func (c *chatApp) onSlot(t *testing.T, slot, path string) *talker {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		k := c.join(t, path)
		if k.welcome.Slot == slot {
			return k
		}
		k.conn.Close()
	}
	t.Fatalf("no connection to slot %s", slot)
	return nil
}

// event reads until an event of a type, answers pings and close frames. A message must
// be the next one of the room.
func (k *talker) event(kind string) (chat.Event, error) {
	for {
		r := wsutil.NewClientSideReader(k.in)
		h, err := r.NextFrame()
		var payload []byte
		if err == nil {
			payload, err = io.ReadAll(r)
		}
		if err != nil {
			return chat.Event{}, err
		}
		switch h.OpCode {
		case ws.OpPing:
			k.send(ws.NewPongFrame(payload))
		case ws.OpClose:
			k.send(ws.NewCloseFrame(payload))
			code, _ := ws.ParseCloseFrameData(payload)
			_, _ = io.Copy(io.Discard, k.in)
			return chat.Event{}, closedWith(code)
		default:
			var e chat.Event
			if err := json.Unmarshal(payload, &e); err != nil {
				return e, err
			}
			if e.Type == chat.Message {
				if k.last != (chat.ID{}) && k.last.Next() != *e.ID {
					return e, fmt.Errorf("message %v after %v", e.ID, k.last)
				}
				k.last = *e.ID
			}
			if e.Type == kind {
				return e, nil
			}
		}
	}
}

func (k *talker) send(f ws.Frame) {
	_, _ = k.conn.Write(ws.MustCompileFrame(ws.MaskFrame(f)))
}

func (k *talker) say(text string) {
	payload, _ := json.Marshal(chat.Request{Say: text})
	k.send(ws.NewTextFrame(payload))
}

// hears fails unless the talker's next message has this text.
func (k *talker) hears(t *testing.T, text string) {
	t.Helper()
	if e, err := k.event(chat.Message); err != nil || e.Text != text {
		t.Fatalf("heard %+v, %v, want %q", e, err, text)
	}
}

func TestWebSocketWorkersTalk(t *testing.T) {
	c := startChat(t)
	a, b := c.onSlot(t, "0", "/lobby"), c.onSlot(t, "1", "/lobby")
	other := c.onSlot(t, "1", "/other")
	for _, text := range []string{"hello", "you", "there"} {
		a.say(text)
		a.hears(t, text)
		b.hears(t, text)
		b.say(text + " too")
		a.hears(t, text+" too")
		b.hears(t, text+" too")
	}
	// The subscriptions break; what is said meanwhile comes with the new ones.
	for range 5 {
		if err := c.redis.client.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err(); err != nil {
			t.Fatal(err)
		}
		a.say("in between")
		a.hears(t, "in between")
		b.hears(t, "in between")
	}
	if a.last != b.last || a.last.Seq != 11 {
		t.Errorf("the last message is %v and %v", a.last, b.last)
	}
	if a.welcome.PID == b.welcome.PID || a.welcome.Host != "here" {
		t.Errorf("welcomes %+v, %+v", a.welcome, b.welcome)
	}
	other.say("alone")
	other.hears(t, "alone")
	b.say("after that")
	b.hears(t, "after that")

	// Redis goes, and comes back empty: who is there stays, who comes is told to come later.
	c.redis.stop()
	if _, err := c.connect(t, "/lobby"); !errors.Is(err, closedWith(1013)) {
		t.Errorf("without Redis: %v", err)
	}
	c.redis.start(t)
	waitFor(t, "an open door", func() error { _, err := c.connect(t, "/x"); return err })
	a.hears(t, "after that")
	a.last, b.last = chat.ID{}, chat.ID{}
	waitFor(t, "the room's subscriptions", func() error {
		n, err := c.redis.client.PubSubNumSub(t.Context(), "chat:{lobby}").Result()
		if err == nil && n["chat:{lobby}"] != 2 {
			err = fmt.Errorf("%v", n)
		}
		return err
	})
	a.say("once more")
	a.hears(t, "once more")
	b.hears(t, "once more")
	c.stop(t)
}

// Without a handoff a roll closes all with 1012, and everyone is back: with the session, and
// all messages.
func TestWebSocketRollCloses(t *testing.T) {
	c := startChat(t, "[drain]", "[drain]\nhandoff = false")
	a := c.join(t, "/lobby")
	for range 3 {
		a.say("x")
		a.hears(t, "x")
	}
	load := c.load(t, 300)
	load.report(t, "all", func(r loadReport) bool { return r.Open == 300 && r.Received > 0 })
	c.reload(t)
	if e, err := a.event(chat.Message); !errors.Is(err, closedWith(1012)) {
		t.Errorf("at a roll: %+v, %v", e, err)
	}
	b := c.join(t, "/lobby")
	b.say("while you were out")
	b.hears(t, "while you were out")
	back, err := c.connect(t, "/?session="+a.welcome.Session)
	if w := back.welcome; err != nil || !w.Resumed || w.Session != a.welcome.Session || w.Said != 3 || w.Visits != 2 || w.PID == a.welcome.PID {
		t.Errorf("the session goes on as %+v, %v", w, err)
	}
	if e, err := back.event(chat.Joined); err != nil || e.Room != "lobby" || *e.ID != b.last {
		t.Errorf("without a room: %+v, %v", e, err)
	}
	again := c.join(t, fmt.Sprintf("/lobby?session=%s&last=%s", a.welcome.Session, a.last))
	again.hears(t, "while you were out")

	load.report(t, "all back", func(r loadReport) bool { return r.Open == 300 && r.Restarted >= 300 })
	r := load.quit(t)
	// Who is back at once may meet a worker that is to go next.
	if r.Open != 300 || r.Restarted < 300 || r.Back.Count != r.Restarted || r.Lost+r.Failed+r.Refused+r.Closed+r.Shed > 0 {
		t.Errorf("the load saw %+v", r)
	}
	r.nothingLost(t)
	c.stop(t)
}

// A worker that is killed loses its connections, but nothing that its users were to get.
func TestWebSocketKill(t *testing.T) {
	c := startChat(t)
	load := c.load(t, 300)
	load.report(t, "all", func(r loadReport) bool { return r.Open == 300 && r.Received > 0 })
	a, err := status(t, c.bin, "chat")
	if err != nil {
		t.Fatal(err)
	}
	victim := a.Slots[0].Workers[0]
	had := *victim.Connections
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	load.report(t, "all back", func(r loadReport) bool { return r.Open == 300 && r.Lost >= had })
	r := load.quit(t)
	if r.Lost != had || had < 1 || had >= 300 || r.Back.Count != r.Lost || r.Restarted+r.Refused+r.Closed+r.Shed > 0 {
		t.Errorf("the load saw %+v", r)
	}
	r.nothingLost(t)
	c.ready(t)
	c.stop(t)
}

// A shed closes as many as asked, the oldest, with 1013.
func TestWebSocketShed(t *testing.T) {
	c := startChat(t)
	var all []*talker
	for range 20 {
		k, err := c.connect(t, "/")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, k)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	shed := func() error {
		out, err := forkd(t, c.bin, "fleet", "shed", "chat", "6", host, "--seconds", "1", "--redis", c.redis.url)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	waitFor(t, "the host in Redis", func() error {
		n, err := c.redis.client.Exists(t.Context(), "forkd:{chat}:host:"+host).Result()
		if err == nil && n == 0 {
			err = errors.New("not there")
		}
		return err
	})
	if err := shed(); err != nil {
		t.Fatal(err)
	}
	c.has(t, 14)
	// All read to their end. Of those that stay it comes when the others' has come.
	ends, left := make([]error, len(all)), make(chan struct{}, len(all))
	var readers sync.WaitGroup
	for i, k := range all {
		readers.Go(func() {
			_, ends[i] = k.event(chat.Message)
			left <- struct{}{}
		})
	}
	for range 6 {
		<-left
	}
	for _, k := range all {
		if err := k.conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	readers.Wait()
	ended := map[string]int{}
	oldestOpen := map[string]bool{} // slots of which one has stayed
	for i, k := range all {
		err := ends[i]
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			ended["open"]++
			oldestOpen[k.welcome.Slot] = true
		case oldestOpen[k.welcome.Slot]:
			t.Errorf("one that came later was closed: %v", err)
		default:
			ended[err.Error()]++
		}
	}
	if ended["open"] != 14 || ended[closedWith(1013).Error()] != 6 {
		t.Errorf("the connections ended so: %v", ended)
	}
	c.stop(t)
}

// Beyond the limit a WebSocket is closed with 1013, until there is room again.
func TestWebSocketLimit(t *testing.T) {
	c := startChat(t, "max_connections_per_host = 25000", "max_connections_per_host = 6")
	var all []*talker
	refused := 0
	for range 60 {
		k, err := c.connect(t, "/")
		switch {
		case err == nil:
			all = append(all, k)
		case errors.Is(err, closedWith(1013)):
			refused++
		default:
			t.Fatal(err)
		}
	}
	if len(all) != 6 || refused != 54 {
		t.Errorf("%d are in, %d refused", len(all), refused)
	}
	all[0].send(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "")))
	waitFor(t, "room for another one", func() error { _, err := c.connect(t, "/"); return err })
	c.stop(t)
}

// loadReport is what the tests read of wsload -json.
// has waits until the workers have so many connections.
func (c *chatApp) has(t *testing.T, connections int) {
	t.Helper()
	waitFor(t, fmt.Sprint(connections, " connections"), func() error {
		a, err := status(t, c.bin, "chat")
		open := 0
		for _, s := range a.Slots {
			for _, w := range s.Workers {
				if w.Connections != nil {
					open += *w.Connections
				}
			}
		}
		if err == nil && open != connections {
			err = fmt.Errorf("%d", open)
		}
		return err
	})
}

type loadReport struct {
	Seconds                                                             float64
	Final                                                               bool
	Users, Open, Opened, Lost, Restarted, Shed, Refused, Failed, Closed int
	Said, Received, Missed, Doubled, Resets, Forgotten                  int
	Unheard, Repeated                                                   int
	Back                                                                struct{ Count int }
}

func (r loadReport) nothingLost(t *testing.T) {
	t.Helper()
	if r.Missed+r.Doubled+r.Unheard+r.Repeated+r.Resets+r.Forgotten > 0 || r.Received == 0 {
		t.Errorf("messages or sessions were lost: %+v", r)
	}
}

type loader struct {
	began   time.Time // before the zero of its reports
	orders  io.Writer
	reports *json.Decoder
}

// load starts wsload.
func (c *chatApp) load(t *testing.T, users int) *loader {
	t.Helper()
	cmd := exec.Command(filepath.Join(c.bin, "wsload"), "-json", "-users", fmt.Sprint(users), "-say", "100", "-backoff", "200ms", "ws://"+c.address)
	cmd.Stderr = os.Stderr
	orders, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return &loader{began: began, orders: orders, reports: json.NewDecoder(out)}
}

// report waits for a report that is good, of those made from now on: older ones may wait to
// be read.
func (l *loader) report(t *testing.T, what string, good func(loadReport) bool) (r loadReport) {
	t.Helper()
	called := time.Since(l.began).Seconds()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		r = loadReport{}
		if err := l.reports.Decode(&r); err != nil {
			t.Fatalf("no report of %s: %v", what, err)
		}
		if (r.Seconds >= called || r.Final) && good(r) {
			return r
		}
	}
	t.Fatalf("no report of %s, but %+v", what, r)
	return r
}

func (l *loader) quit(t *testing.T) loadReport {
	t.Helper()
	if _, err := io.WriteString(l.orders, "quit\n"); err != nil {
		t.Fatal(err)
	}
	return l.report(t, "the end", func(r loadReport) bool { return r.Final })
}
