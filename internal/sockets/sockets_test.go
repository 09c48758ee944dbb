package sockets

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing/closingtest"
)

func TestOpen(t *testing.T) {
	sameFiles(t)
	blocking := tcp("b", "127.0.0.1", 0)
	blocking.Nonblocking = false
	s := open(t, 3, tcp("a", "127.0.0.1", 0), blocking)

	if s.port("a") == 0 || s.port("a") == s.port("b") || s.port("c") != 0 {
		t.Errorf("ports %d, %d, %d of an unknown one", s.port("a"), s.port("b"), s.port("c"))
	}
	if got := s.listeners()[1]; got.Port != s.port("b") || got.Name != "b" {
		t.Errorf("listener %+v", got)
	}
	for slot := range 3 {
		fds, err := s.files(slot)
		check(t, err)
		for i, fd := range fds {
			if port, err := boundPort(fd); err != nil || port != s.listeners()[i].Port {
				t.Errorf("slot %d, listener %d is on port %d (%v)", slot, i, port, err)
			}
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			check(t, err)
			if nonblocking := flags&unix.O_NONBLOCK != 0; nonblocking != (i == 0) {
				t.Errorf("slot %d, listener %d: O_NONBLOCK is %v", slot, i, nonblocking)
			}
			flags, err = unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			check(t, err)
			if flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("slot %d, listener %d is not close-on-exec", slot, i)
			}
			if protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || protocol != unix.IPPROTO_TCP {
				t.Errorf("protocol %d (%v)", protocol, err)
			}
		}
	}
}

func TestOpenNothing(t *testing.T) {
	s := open(t, 2)
	fds, err := s.files(1)
	if len(fds) != 0 || err != nil {
		t.Errorf("files %v, %v", fds, err)
	}
	check(t, s.steer(false, true))
	if _, known := s.Queue(0); known {
		t.Error("a queue without a listener")
	}
	if undone, err := s.Restore(0); undone != "" || err != nil {
		t.Errorf("restored %v, %v", undone, err)
	}
	check(t, s.CloseSlot(0))
	for _, slots := range []int{0, 1025} {
		if _, err := openApp(nil, slots); err == nil {
			t.Errorf("%d slots are opened", slots)
		}
	}
}

// A listener that cannot be had must not leave the ones before it behind.
func TestOpenFailsWhole(t *testing.T) {
	sameFiles(t)
	held := open(t, 1, tcp("held", "127.0.0.1", 0))
	free := open(t, 1, tcp("free", "127.0.0.1", 0))
	port := free.port("free")
	free.Close()

	before := openFiles()
	_, err := openApp([]Listener{tcp("a", "127.0.0.1", port), tcp("b", "127.0.0.1", held.port("held"))}, 4)
	if heldError := (*HeldError)(nil); !errors.As(err, &heldError) || heldError.Listener.Name != "b" {
		t.Fatalf("error %v", err)
	}
	if after := openFiles(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if conn, err := net.Dial("tcp", loopback(port)); err == nil {
		conn.Close()
		t.Error("the first listener still listens")
	}
}

func TestTwoHundredSlots(t *testing.T) {
	sameFiles(t)
	s := open(t, 200, tcp("http", "127.0.0.1", 0))
	dial(t, loopback(s.port("http")), 4000)
	for slot, n := range accept(t, s, 4000) {
		if n < 1 || n > 60 {
			t.Errorf("slot %d got %d of 4000 connections, 20 are its share", slot, n)
		}
	}
}

// What is queued stays, whoever comes and goes, and is counted.
func TestQueueIsKept(t *testing.T) {
	s := open(t, 2, tcp("http", "127.0.0.1", 0))
	check(t, s.steer(true, false))
	dial(t, loopback(s.port("http")), 20)
	fds, err := s.files(0)
	check(t, err)
	waitReadable(t, fds[0])

	check(t, s.steer(false, true))
	dial(t, loopback(s.port("http")), 10)
	if counts := accept(t, s, 30); !slices.Equal(counts, []int{20, 10}) {
		t.Errorf("connections by slot: %v", counts)
	}
	if n, known := s.Queue(0); n != 0 || !known {
		t.Errorf("empty queue is %d, %v", n, known)
	}
	dial(t, loopback(s.port("http")), 1)
	fds, err = s.files(1)
	check(t, err)
	waitReadable(t, fds[0])
	if n, known := s.Queue(1); n != 1 || !known {
		t.Errorf("queue of one is %d, %v", n, known)
	}
}

func TestCloseSlot(t *testing.T) {
	sameFiles(t)
	s := open(t, 3, tcp("http", "127.0.0.1", 0))
	address := loopback(s.port("http"))
	fds, err := s.files(0)
	check(t, err)
	leftover, err := unix.FcntlInt(uintptr(fds[0]), unix.F_DUPFD_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(leftover)

	check(t, s.steer(true, false, false))
	queued := dial(t, address, 1)[0]
	waitReadable(t, fds[0])
	check(t, s.steer(true, false, true))
	check(t, s.CloseSlot(0))
	check(t, queued.SetReadDeadline(time.Now().Add(waitTimeout)))
	if _, err := queued.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the closed slot's queue: %v, want a reset", err)
	}
	if _, known := s.Queue(0); known {
		t.Error("a closed slot has a queue")
	}
	check(t, s.CloseSlot(0))

	// The last slot has moved into the first place and still is the one that
	// accepts; a copy of the closed socket elsewhere takes no share. Open again,
	// the slot gets nothing before it is told to.
	wantArrivals(t, s, []int{0, 0, 20})
	_, err = s.files(0)
	check(t, err)
	wantArrivals(t, s, []int{0, 0, 20})
	wantEach(t, s, 3)
}

// With every slot closed the port is free. The first that comes back binds as
// the first of a new group, which is steered as the old one was.
func TestCloseEverySlot(t *testing.T) {
	s := open(t, 2, tcp("http", "127.0.0.1", 0))
	for slot := range 2 {
		check(t, s.CloseSlot(slot))
	}
	if conn, err := net.Dial("tcp", loopback(s.port("http"))); err == nil {
		conn.Close()
		t.Error("somebody listens")
	}
	check(t, s.steer(false, true))
	for slot := range 2 {
		_, err := s.files(slot)
		check(t, err)
	}
	wantArrivals(t, s, []int{0, 20})
}

func TestRestore(t *testing.T) {
	for name, harm := range map[string]func(fd int) error{
		"shut down":       func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RD) },
		"shut down twice": func(fd int) error { unix.Shutdown(fd, unix.SHUT_RDWR); unix.Shutdown(fd, unix.SHUT_RDWR); return nil },
		"connected": func(fd int) error {
			unix.Shutdown(fd, unix.SHUT_RDWR)
			elsewhere := open(t, 1, tcp("elsewhere", "127.0.0.1", 0))
			err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: elsewhere.port("elsewhere")})
			if errors.Is(err, unix.EINPROGRESS) {
				return nil
			}
			return err
		},
		"backlog": func(fd int) error { return unix.Listen(fd, 1) },
		"a filter that drops everything": func(fd int) error {
			return setProgram(fd, unix.SO_ATTACH_FILTER, []bpf.Instruction{bpf.RetConstant{Val: 0}})
		},
		"out of the group's program": func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			for slot := range 4 {
				s := open(t, 4, tcp("http", "127.0.0.1", 0))
				fds, err := s.files(slot)
				check(t, err)
				wantOnly(t, s, 3)
				if undone, err := s.Restore(slot); undone != "" || err != nil {
					t.Fatalf("restored a sound socket: %v, %v", undone, err)
				}
				check(t, harm(fds[0]))
				if undone, err := s.Restore(slot); undone == "" || err != nil {
					t.Fatalf("restored %v, %v", undone, err)
				}
				if undone, err := s.Restore(slot); undone != "" || err != nil {
					t.Fatalf("restored twice: %v, %v", undone, err)
				}
				wantArrivals(t, s, []int{0, 0, 0, 20})
				if state, err := inspect(fds[0]); err != nil || state.backlog != 512 {
					t.Errorf("backlog is %d (%v)", state.backlog, err)
				}
				if port, err := boundPort(fds[0]); err != nil || port != s.port("http") {
					t.Errorf("port is %d, was %d", port, s.port("http"))
				}
				wantEach(t, s, 4)
				exchange(t, s, slot)
			}
		})
	}
}

// wantRestored has every socket looked at, and fails unless one slot's was harmed, so.
func wantRestored(t *testing.T, s *Set, slot int, why string) {
	t.Helper()
	restored, err := s.Restore(AllSlots)
	if len(restored) != 1 || restored[0].Slot != slot || !strings.Contains(restored[0].Why, why) || err != nil {
		t.Errorf("restored %v, %v, want slot %d: %s", restored, err, slot, why)
	}
}

// A socket that a worker has shut down takes no part until it is restored.
func TestShutDownSlotIsSteeredAround(t *testing.T) {
	s := open(t, 4, tcp("http", "127.0.0.1", 0))
	fds, err := s.files(0)
	check(t, err)
	check(t, unix.Shutdown(fds[0], unix.SHUT_RDWR))
	for only := 1; only < 4; only++ {
		wantOnly(t, s, only)
	}
	if _, known := s.Queue(0); known {
		t.Error("a queue of a socket that does not listen")
	}
}

// wantOnly steers to one slot and fails unless it gets everything.
func wantOnly(t *testing.T, s *testApp, only int) {
	t.Helper()
	accepting, want := make([]bool, s.slots), make([]int, s.slots)
	accepting[only], want[only] = true, 20
	check(t, s.steer(accepting...))
	wantArrivals(t, s, want)
}

// wantEach steers to each slot in turn.
func wantEach(t *testing.T, s *testApp, slots int) {
	t.Helper()
	for only := range slots {
		wantOnly(t, s, only)
	}
}

// wantArrivals opens 20 connections and fails unless they arrive so by slot.
func wantArrivals(t *testing.T, s *testApp, want []int) {
	const n = 20
	t.Helper()
	dial(t, loopback(s.listeners()[0].Port), n)
	if counts := accept(t, s, n); !slices.Equal(counts, want) {
		t.Errorf("connections by slot: %v, want %v", counts, want)
	}
}

// exchange fails unless bytes go both ways on a connection of the slot.
func exchange(t *testing.T, s *testApp, slot int) {
	t.Helper()
	accepting := make([]bool, s.slots)
	accepting[slot] = true
	check(t, s.steer(accepting...))
	client := dial(t, loopback(s.listeners()[0].Port), 1)[0]
	_, err := client.Write([]byte("?"))
	check(t, err)
	fds, err := s.files(slot)
	check(t, err)
	waitReadable(t, fds[0])
	server, _, err := unix.Accept4(fds[0], unix.SOCK_CLOEXEC)
	check(t, err)
	defer unix.Close(server)
	buffer := make([]byte, 1)
	if n, err := unix.Read(server, buffer); n != 1 || err != nil {
		t.Fatalf("the server read %d bytes, %v", n, err)
	}
	_, err = unix.Write(server, []byte("!"))
	check(t, err)
	if _, err := client.Read(buffer); err != nil || buffer[0] != '!' {
		t.Fatalf("the client read %q, %v", buffer, err)
	}
}

func waitReadable(t *testing.T, fd int) {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(waitTimeout.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 || err != nil {
			t.Fatalf("nothing to read: %v", err)
		}
		return
	}
}

func joinPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// A worker can shut its slot's socket down and connect it: what it has not sent by
// its end would hold the loop's close(2) up.
func TestSlotConnectedByAWorker(t *testing.T) {
	silent := closingtest.Silent(t)
	s := open(t, 2, tcp("http", "127.0.0.1", 0))
	fds, err := s.files(1)
	check(t, err)
	check(t, unix.Shutdown(fds[0], unix.SHUT_RD))
	check(t, closingtest.Fill(fds[0], silent))
	closingtest.Returns(t, "the loop", func() { check(t, s.CloseSlot(1)) })
}
