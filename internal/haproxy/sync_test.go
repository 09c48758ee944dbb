package haproxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/forkd/forkd/internal/fleet"
)

const stateHead = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status\n"

// respond answers each connection's line until the test ends, and returns the API.
func respond(t *testing.T, answer func(line string, conn net.Conn)) API {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				line, err := bufio.NewReader(conn).ReadString('\n')
				if err == nil {
					answer(strings.TrimSuffix(line, "\n"), conn)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return API{Network: "tcp", Address: ln.Addr().String()}
}

func one(addr, state string) *fleet.Fleet {
	return &fleet.Fleet{Hosts: []fleet.Host{{ID: "a", State: state, Addresses: []string{addr}}}}
}

// What HAProxy answers is bounded in time and in bytes, and is not taken on trust.
func TestAnswersThatHarm(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(line string, conn net.Conn)
		want   string
	}{
		"never":       {func(_ string, conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }, "no whole answer within 2s"},
		"nothing":     {func(string, net.Conn) {}, "HAProxy answers nothing"},
		"another":     {func(_ string, conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n") }, `HAProxy says "HTTP/1.1 400 Bad Request"`},
		"short lines": {func(_ string, conn net.Conn) { _, _ = io.WriteString(conn, stateHead+"3 b 1 forkd1 0.0.0.0\n") }, `HAProxy says "3 b 1 forkd1 0.0.0.0"`},
		"no numbers": {func(_ string, conn net.Conn) {
			_, _ = io.WriteString(conn, stateHead+"3 b 1 forkd1 0.0.0.0 0 x 1 1 1 1 0 0 0 0 0 0 - 1\n")
		}, `HAProxy says "3 b 1`},
		"a long one": {func(_ string, conn net.Conn) { _, _ = io.WriteString(conn, strings.Repeat("x", 1<<20)) }, `HAProxy says "` + strings.Repeat("x", mostShown) + `"`},
	} {
		s := Sync{API: respond(t, c.answer), Backend: "b", Prefix: "forkd"}
		_, _, err := s.Look(t.Context(), one("10.0.0.1:80", "ready"))
		if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 300 {
			t.Errorf("%s: %.300v, want %s", name, err, c.want)
		}
	}
}

// What is endless ends, however slow the machine: the timeout is not this test's.
func TestEndlessAnswer(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	go func() {
		_, _ = bufio.NewReader(there).ReadString('\n')
		for {
			if _, err := there.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}()
	if _, err := exchange(here, "show servers state"); err == nil || !strings.Contains(err.Error(), "more than 8388608 bytes") {
		t.Error(err)
	}
}

// A server that HAProxy does not change is told of, with what it said; those of others are
// left alone.
func TestChangeThatIsRefused(t *testing.T) {
	var asked []string
	var mu sync.Mutex
	s := Sync{Backend: "b", Prefix: "forkd", API: respond(t, func(line string, conn net.Conn) {
		mu.Lock()
		asked = append(asked, line)
		mu.Unlock()
		if line != "show servers state b" {
			_, _ = io.WriteString(conn, "Permission denied\n\n")
			return
		}
		_, _ = io.WriteString(conn, stateHead)
		for i, name := range []string{"forkd", "forkdx", "other1", "forkd1x", "forkd7"} {
			fmt.Fprintf(conn, "3 b %d %s 0.0.0.0 0 5 100 100 1 1 0 0 14 0 0 0 - 1 - 0 0 - - 0\n", i, name)
		}
		fmt.Fprintln(conn, "3 b 9 forkd9 - 0 5 100 100 1 1 0 0 14 0 0 0 - 0 - 0 0 - - 0") // of a unix socket
	})}
	changes, wrong, err := s.Look(t.Context(), one("10.0.0.1:80", "ready"))
	if err != nil || len(changes) != 0 || fmt.Sprint(wrong) != `[forkd7 could not be changed: HAProxy says "Permission denied"]` {
		t.Errorf("%v, %q, %v", changes, wrong, err)
	}
	if want := "[show servers state b set server b/forkd7 addr 10.0.0.1 port 80;set server b/forkd7 state ready; show servers state b]"; fmt.Sprint(asked) != want {
		t.Errorf("asked %s", asked)
	}
}

// Missing reports count once they have been missing for long enough; not while Redis is
// away or all are missing, and not for one that is back in time.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := at("10.0.0.1:80"), at("10.0.0.2:80")
		servers := []server{{addr: a, state: Ready}, {addr: b, state: Ready}}
		serves := want{state: Ready, expect: patience}
		slow := want{state: Ready, expect: time.Minute}
		alone := map[netip.AddrPort]want{a: serves}
		s := new(Sync)
		gone := func(wants map[netip.AddrPort]want, heard bool) bool {
			return s.listen(servers, wants, heard, time.Now())(b)
		}
		expect := func(wants map[netip.AddrPort]want, heard, after bool, d time.Duration) {
			t.Helper()
			if gone(wants, heard) {
				t.Error("gone at once")
			}
			time.Sleep(d - time.Second)
			if gone(wants, heard) {
				t.Error("gone too soon")
			}
			time.Sleep(time.Second)
			if gone(wants, heard) != after {
				t.Errorf("gone after %s: %v", d, !after)
			}
		}
		expect(alone, true, true, patience) // one that was there before this began
		expect(map[netip.AddrPort]want{a: serves, b: serves}, true, false, time.Hour)
		expect(alone, true, true, patience)
		expect(map[netip.AddrPort]want{a: serves, b: slow}, true, false, time.Hour)
		expect(alone, true, true, time.Minute) // it reports so seldom
		expect(alone, false, false, time.Hour)
		expect(nil, true, false, time.Hour)
		expect(map[netip.AddrPort]want{a: {state: Drain}}, true, false, time.Hour)
		s.Once = true
		if !gone(alone, true) || gone(nil, true) {
			t.Error("once")
		}
	})
}

// While Redis is away nothing is known before the first look, and nothing is asked.
func TestWithoutRedis(t *testing.T) {
	s := Sync{API: API{Network: "tcp", Address: "127.0.0.1:1"}}
	if changes, wrong, err := s.Look(context.Background(), nil); changes != nil || wrong != nil || err != nil {
		t.Error(changes, wrong, err)
	}
}
