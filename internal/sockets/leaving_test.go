package sockets

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
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

// Scaling from 6 to 2 and back, under a load of one connection per request: no
// connection fails.
func TestScaleUnderLoad(t *testing.T) {
	sameFiles(t)
	const most, least, cycles, clients = 6, 2, 6, 8
	s := open(t, most, tcp("http", "127.0.0.1", 0))
	address := loopback(s.port("http"))
	stops := make([]int, most)
	serving := make([]sync.WaitGroup, most)
	start := func(slot int) {
		files, err := s.files(slot)
		check(t, err)
		stops[slot], err = unix.Eventfd(0, unix.EFD_CLOEXEC)
		check(t, err)
		fd, stop := dup(t, files[0]), stops[slot] // a worker has a copy
		serving[slot].Go(func() {
			defer unix.Close(stop)
			defer unix.Close(fd)
			if err := serve(fd, stop, byte(slot)); err != nil {
				t.Errorf("slot %d: %v", slot, err)
			}
		})
	}
	finish := func(slot int) {
		_, err := unix.Write(stops[slot], []byte{1, 0, 0, 0, 0, 0, 0, 0})
		check(t, err)
		serving[slot].Wait()
	}
	for slot := range most {
		start(slot)
	}
	var load sync.WaitGroup
	var served, failed atomic.Int64
	done, tick := make(chan struct{}), make(chan struct{}, 1)
	for range clients {
		load.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := ask(address); err != nil {
					failed.Add(1)
					t.Errorf("a connection failed: %v", err)
				}
				served.Add(1)
				select {
				case tick <- struct{}{}:
				default:
				}
			}
		})
	}
	accept := slices.Repeat([]bool{true}, most)
	accepting := func(slot int, accepts bool) {
		accept[slot] = accepts
		check(t, s.steer(accept...))
	}
	more := func(n int64) {
		for until := served.Load() + n; served.Load() < until; {
			<-tick
		}
	}
	random := rand.New(rand.NewPCG(7, 8))
	for range cycles {
		more(300)
		gone := random.Perm(most)[least:] // any of them, so that the order is no longer the first one
		for _, slot := range gone {
			accepting(slot, false)
			more(20) // forkd waits a second here
			leaving := s.Leave(slot)
			deadline := time.Now().Add(waitTimeout)
			for {
				half, err := leaving.HalfOpen()
				check(t, err)
				waiting, known := s.Queue(slot)
				if !half && known && waiting == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the slot does not become empty")
				}
			}
			finish(slot)
			check(t, s.CloseSlot(slot))
		}
		more(100)
		for _, slot := range gone {
			start(slot)
			accepting(slot, true)
		}
	}
	close(done)
	load.Wait()
	for slot := range most {
		finish(slot)
	}
	t.Logf("%d connections, %d failed", served.Load(), failed.Load())
}
