package sockets

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/ports"
)

func inMode(mode string, l Listener) Listener {
	l.Mode = mode
	return l
}

func TestShared(t *testing.T) {
	sameFiles(t)
	s := open(t, 3, inMode(ModeShared, tcp("http", "127.0.0.1", 0)))
	l := s.listeners()[0]
	if l.Mode != ModeShared || l.Port == 0 {
		t.Errorf("listener %+v", l)
	}
	var fds []int
	for slot := range 5 { // two more than at first
		files, err := s.files(slot)
		check(t, err)
		fds = append(fds, files...)
	}
	if len(slices.Compact(fds)) != 1 {
		t.Errorf("files %v, want one for all", fds)
	}
	check(t, s.steer(false, false, false))
	wantArrivals(t, s, []int{20, 0, 0})

	// It belongs to nobody in particular: slot 0 tells of its queue, and a slot
	// that leaves waits for nothing.
	conn := dial(t, loopback(l.Port), 1)[0]
	waitReadable(t, fds[0])
	if n, known := s.Queue(0); n != 1 || !known {
		t.Errorf("queue of slot 0: %d, %v", n, known)
	}
	if _, known := s.Queue(1); known {
		t.Error("slot 1 has a queue of its own")
	}
	if half, err := s.Leave(4).HalfOpen(); half || err != nil {
		t.Errorf("half open: %v, %v", half, err)
	}

	// It outlives all slots but the last.
	for slot := range 4 {
		check(t, s.CloseSlot(slot))
	}
	if n, known := s.Queue(4); n != 1 || !known {
		t.Errorf("queue of the last slot: %d, %v", n, known)
	}
	check(t, s.CloseSlot(4))
	wantReset(t, conn)
	wantRefused(t, loopback(l.Port))
	_, err := s.files(2)
	check(t, err)
	if port := s.port("http"); port != l.Port {
		t.Errorf("port %d, was %d", port, l.Port)
	}
	wantArrivals(t, s, []int{20, 0, 0})
}

// Neither can a shared port be had twice, though by the same user.
func TestSharedIsExclusive(t *testing.T) {
	a := open(t, 2, inMode(ModeShared, tcp("http", "127.0.0.1", 0)))
	for _, mode := range []string{ModeShared, ModeReuseport} {
		held := (*HeldError)(nil)
		if _, err := openApp([]Listener{inMode(mode, tcp("http", "127.0.0.1", a.port("http")))}, 1); !errors.As(err, &held) {
			t.Errorf("mode %s: %v", mode, err)
		}
	}
}

func TestSharedIsRestored(t *testing.T) {
	s := open(t, 2, inMode(ModeShared, tcp("http", "127.0.0.1", 0)))
	files, err := s.files(1)
	check(t, err)
	check(t, unix.Shutdown(files[0], unix.SHUT_RDWR))
	wantRestored(t, s.Set, 0, "a worker had shut the socket down")
	check(t, unix.Listen(files[0], 3))
	if undone, err := s.Restore(1); undone == "" || err != nil {
		t.Errorf("restored %v, %v", undone, err)
	}
	wantArrivals(t, s, []int{20, 0})
}

func TestEach(t *testing.T) {
	sameFiles(t)
	base := ports.Free(t, 5) + 1
	s := open(t, 3, inMode(ModeEach, tcp("http", "127.0.0.1", base)))
	reach := func(want ...int) {
		t.Helper()
		for slot, n := range want {
			address := loopback(base + slot)
			if n == 0 {
				wantRefused(t, address)
				continue
			}
			dial(t, address, 1)
		}
	}
	for slot := range 3 {
		if l := s.line.Listeners(slot)[0]; l.Port != base+slot || l.Mode != ModeEach {
			t.Errorf("slot %d: %+v", slot, l)
		}
		files, err := s.files(slot)
		check(t, err)
		if port, err := boundPort(files[0]); err != nil || port != base+slot {
			t.Errorf("slot %d is on port %d, %v", slot, port, err)
		}
	}
	reach(1, 1, 1, 0)
	if n, known := s.Queue(2); n != 1 || !known {
		t.Errorf("queue %d, %v", n, known)
	}
	_, err := s.files(3)
	check(t, err)
	check(t, s.CloseSlot(1))
	reach(1, 0, 1, 1)
	_, err = s.files(1)
	check(t, err)
	reach(1, 1, 1, 1)

	files, err := s.files(2)
	check(t, err)
	check(t, unix.Shutdown(files[0], unix.SHUT_RDWR))
	wantRestored(t, s.Set, 2, "a worker had shut the socket down")
	reach(1, 1, 1, 1)
	held := (*HeldError)(nil)
	if _, err := openApp([]Listener{inMode(ModeEach, tcp("http", "127.0.0.1", base-1))}, 3); !errors.As(err, &held) || held.Listener.Port < base {
		t.Errorf("a range that is held in part: %v", err)
	}
}

func TestModesRefused(t *testing.T) {
	sameFiles(t)
	for _, c := range []struct {
		ls   []Listener
		says string
	}{
		{[]Listener{inMode(ModeEach, tcp("http", "", 65533))}, "needs the ports 65533 to 65536, and 65535 is the last"},
		{[]Listener{inMode(ModeEach, tcp("a", "", 9000)), tcp("b", "127.0.0.1", 9003)}, `listeners "a" and "b" overlap: give one another address`},
		{[]Listener{tcp("a", "127.0.0.1", 9003), inMode(ModeEach, tcp("b", "", 9000))}, `listeners "a" and "b" overlap`},
		{[]Listener{inMode(ModeEach, tcp("a", "", 9000)), inMode(ModeEach, tcp("b", "", 8997))}, "overlap"},
	} {
		_, err := openApp(c.ls, 4)
		wantError(t, err, c.says)
	}
	if _, err := resolveAll([]Listener{inMode(ModeEach, tcp("a", "", 9000)), tcp("b", "", 9004)}, 4); err != nil {
		t.Error(err)
	}
}

// A port past the end is refused when the slot is opened, and harms nobody.
func TestEachGrowsPastTheEnd(t *testing.T) {
	s := open(t, 1, inMode(ModeEach, tcp("http", "127.0.0.1", 65535)))
	_, err := s.files(1)
	wantError(t, err, "cannot listen for slot 1", "its port would be 65536")
	dial(t, loopback(65535), 1)
}

func wantRefused(t *testing.T, address string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, waitTimeout)
	if err == nil {
		conn.Close()
		t.Errorf("somebody listens on %s", address)
	}
}

func wantReset(t *testing.T, conn net.Conn) {
	t.Helper()
	check(t, conn.SetReadDeadline(time.Now().Add(waitTimeout)))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("what was queued: %v, want a reset", err)
	}
}

func sprint(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// What could not be is known before anything is changed.
func TestFits(t *testing.T) {
	sameFiles(t)
	base := ports.Free(t, 6) + 1
	a := open(t, 2, inMode(ModeEach, tcp("own", "127.0.0.1", base)), tcp("near", "127.0.0.1", base+3), unixAt(socketPath(t)))
	for slots := 1; slots <= 3; slots++ {
		check(t, a.line.Fits(slots))
	}
	wantError(t, a.line.Fits(4), sprint(`cannot have 4 slots: listener "own" takes a port for each, %d to %d, and listener "near" has port %d`, base, base+3, base+3))
	wantError(t, a.line.Fits(0), "1 to 1024")
	wantError(t, a.line.Fits(1025), "1 to 1024")

	// The range has grown: another configuration may not have a port of it.
	_, err := a.files(2)
	check(t, err)
	_, err = a.Open([]Listener{tcp("new", "127.0.0.1", base+2)}, 1)
	wantError(t, err, `while listener "own" serves it in mode "each"`)
	check(t, a.CloseSlot(2))
	next, err := a.Open([]Listener{tcp("new", "127.0.0.1", base+2)}, 1)
	check(t, err)
	wantError(t, a.line.Fits(3), `listener "new" has port`)
	a.Release(next)
	check(t, a.line.Fits(3))

	two := open(t, 1, inMode(ModeEach, tcp("x", "127.0.0.2", 65534)), inMode(ModeEach, tcp("y", "127.0.0.2", 65533)))
	wantError(t, two.line.Fits(2), `and listener "y" has port 65534`)
	two.Release(two.line)
	last, err := two.Open([]Listener{inMode(ModeEach, tcp("x", "127.0.0.2", 65534))}, 1)
	check(t, err)
	check(t, last.Fits(2))
	wantError(t, last.Fits(3), "65534 to 65536, and 65535 is the last: at most 2 slots")
}
