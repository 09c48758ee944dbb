package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/forkd/forkd/examples/websocket/chat"
)

// pass has clients go from one server to the other all the time, as if each were the
// successor of the other. Every tenth is refused.
func pass(t *testing.T) (address string) {
	t.Helper()
	var other *server
	ctx, cancel := context.WithCancel(t.Context())
	var moves sync.WaitGroup
	address = serve(t, func(s *server) { other = s })
	made := &server{plane: other.plane, hub: newHub(other.plane), host: "there", ping: timeout, counted: other.counted}
	var mu sync.Mutex
	var count, read, unsent int
	to := func(next *server) func(net.Conn, []byte) error {
		return func(conn net.Conn, text []byte) error {
			_ = conn.(*net.TCPConn).SetWriteBuffer(1) // the least that there is
			var now state
			if err := json.Unmarshal(text, &now); err != nil {
				t.Error(err)
			}
			mu.Lock()
			count, read, unsent = count+1, read+min(1, len(now.Ahead)), unsent+min(1, len(now.Unsent))
			refuse := count%10 == 0
			mu.Unlock()
			if refuse {
				return errors.New("not now")
			}
			go next.goOn(t.Context(), conn, text)
			return nil
		}
	}
	other.handoff, made.handoff = to(made), to(other)
	moves.Go(func() { made.hub.run(ctx) })
	for _, s := range []*server{made, other} {
		moves.Go(func() {
			for ctx.Err() == nil {
				s.move(make(chan struct{}))
				time.Sleep(rand.N(10 * time.Millisecond))
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		moves.Wait()
		for end := time.Now().Add(timeout); made.open()+other.open() > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
			made.closeOldest(made.open(), statusServiceRestart, "")
			other.closeOldest(other.open(), statusServiceRestart, "")
		}
		t.Logf("%d moves, %d with something half read, %d with something half written", count, read, unsent)
	})
	return address
}

// Clients that move all the time, in the middle of frames that are half read or half
// written, get every message once and in order, and so do their own arrive.
func TestMovesTearNothing(t *testing.T) {
	t.Parallel()
	address := pass(t)
	const talkers, texts = 3, 15
	var all sync.WaitGroup
	var conns []net.Conn
	for range talkers {
		conn, in, err := dial(t, address, "/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).SetReadBuffer(1); err != nil {
			t.Fatal(err)
		}
		event(t, in, chat.Joined)
		conns = append(conns, conn)
		all.Go(func() { listen(t, in, talkers*texts, texts) })
	}
	for i, conn := range conns {
		all.Go(func() { talk(t, conn, i, texts) })
	}
	all.Wait()
}

// talk says numbered texts, in frames that come in pieces, with pings between them.
func talk(t *testing.T, conn net.Conn, who, texts int) {
	for n := range texts {
		text := fmt.Sprintf(`{"say":"%d %d %s"}`, who, n, strings.Repeat("x", rand.IntN(maxMessage-100)))
		cut := rand.IntN(len(text))
		bytes := masked(ws.OpText, false, text[:cut])
		bytes = append(bytes, masked(ws.OpPing, true, strconv.Itoa(n))...)
		bytes = append(bytes, masked(ws.OpContinuation, true, text[cut:])...)
		for len(bytes) > 0 {
			piece := min(len(bytes), 1+rand.IntN(400))
			if _, err := conn.Write(bytes[:piece]); err != nil {
				t.Error(err)
				return
			}
			bytes = bytes[piece:]
			if rand.IntN(2) == 0 {
				time.Sleep(rand.N(3 * time.Millisecond))
			}
		}
	}
}

// listen wants numbers without gaps, and a pong for each ping.
func listen(t *testing.T, in io.Reader, messages, pings int) {
	said := map[string]int{}
	pongs := 0
	for seq := uint64(0); seq < uint64(messages) || pongs < pings; {
		if rand.IntN(8) == 0 {
			time.Sleep(rand.N(3 * time.Millisecond))
		}
		op, payload, err := frame(in)
		if err != nil {
			t.Errorf("after message %d of %d and %d pongs: %v", seq, messages, pongs, err)
			return
		}
		if op == ws.OpPong {
			if string(payload) != strconv.Itoa(pongs) {
				t.Errorf("pong %q, want %d", payload, pongs)
			}
			pongs++
			continue
		}
		var e chat.Event
		if err := json.Unmarshal(payload, &e); err != nil || op != ws.OpText || e.Type != chat.Message {
			t.Errorf("%v %.100q, %v", op, payload, err)
			return
		}
		who, rest, _ := strings.Cut(e.Text, " ")
		number, _, _ := strings.Cut(rest, " ")
		seq++
		if e.ID.Seq != seq || number != strconv.Itoa(said[who]) {
			t.Errorf("message %v is %s of %s, want message %d, which is %d", e.ID, number, who, seq, said[who])
			return
		}
		said[who]++
	}
}

// A client with a state that another release has made is closed, between two frames.
func TestStatesOfOthers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"Version":2,"Seen":7,"Unsent":"YWJj"}`: "abc\x88\x09\x03\xf4restart",
		`{"Version":"3"}`:                        "\x88\x09\x03\xf4restart",
		"nonsense":                               "\x88\x09\x03\xf4restart",
	} {
		here, there := net.Pipe()
		go new(server).goOn(t.Context(), there, []byte(text))
		got := make([]byte, len(want))
		if _, err := io.ReadFull(here, got); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v", text, got, err)
		}
		here.Close()
	}
}
