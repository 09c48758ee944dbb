package sockets

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// halfConnect opens a connection that stays half open until finish: the slot's
// socket waits for its first byte (TCP_DEFER_ACCEPT, tcp(7)).
func halfConnect(t *testing.T, s *testApp, slot, listener int, host string) (finish func()) {
	t.Helper()
	files, err := s.files(slot)
	check(t, err)
	check(t, unix.SetsockoptInt(files[listener], unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 10))
	conn := dial(t, joinPort(host, s.listeners()[listener].Port), 1)[0]
	return func() {
		_, err := conn.Write([]byte("?"))
		check(t, err)
	}
}

func TestHalfOpen(t *testing.T) {
	sameFiles(t)
	for _, c := range []struct{ host, server string }{{"127.0.0.1", "127.0.0.1"}, {"::1", "::1"}, {"", "127.0.0.1"}, {"", "::1"}} {
		t.Run(c.host+"_"+c.server, func(t *testing.T) {
			s := open(t, 2, tcp("http", c.host, 0), tcp("other", c.host, 0))
			wantHalf := func(l *Leaving, want bool) {
				t.Helper()
				if got, err := l.HalfOpen(); got != want || err != nil {
					t.Errorf("half open: %v, %v, want %v", got, err, want)
				}
			}
			check(t, s.steer(false, true))
			dial(t, joinPort(c.server, s.port("http")), 3)
			wantHalf(s.Leave(1), false)

			finish := halfConnect(t, s, 1, 0, c.server)
			check(t, s.steer(true, false))
			leaving := s.Leave(1)
			wantHalf(leaving, true)
			later := halfConnect(t, s, 0, 1, c.server)
			wantHalf(leaving, true)
			finish()
			deadline := time.Now().Add(waitTimeout)
			for half := true; half; {
				var err error
				if half, err = leaving.HalfOpen(); err != nil || time.Now().After(deadline) {
					t.Fatalf("half open for ever, %v", err)
				}
			}
			wantHalf(leaving, false) // what came later is not waited for
			wantHalf(s.Leave(0), true)
			port := s.port("http") // nor is another port
			if half, err := (&Leaving{ports: []int{port}}).HalfOpen(); half || err != nil {
				t.Errorf("half open on port %d: %v, %v", port, half, err)
			}
			later()
			if counts := accept(t, s, 5); !slices.Equal(counts, []int{1, 4}) {
				t.Errorf("connections by slot: %v", counts)
			}
		})
	}
}

func TestHalfOpenUnprivileged(t *testing.T) { runHelper(t, helperCommand(t, "half-open")) }

func helpHalfOpen() error {
	if err := becomeNobody(); err != nil {
		return err
	}
	s, err := openApp([]Listener{tcp("http", "", 0)}, 2)
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Leave(1).HalfOpen()
	return err
}
