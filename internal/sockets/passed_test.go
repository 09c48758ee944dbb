package sockets

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/ports"
)

func v4(port int) endpoint { return endpoint{addr: ipv4Loopback, port: port} }

func TestPassedByName(t *testing.T) {
	sameFiles(t)
	given, _ := unitSockets(t, "http", 2, v4(0))
	port := portOf(t, given[0])
	s := openGiven(t, given, nil, 2, tcp("http", "127.0.0.1", port))
	for slot, g := range given {
		files, err := s.files(slot)
		check(t, err)
		if files[0] != g.FD {
			t.Errorf("slot %d has %d, passed was %d", slot, files[0], g.FD)
		}
		flags, err := unix.FcntlInt(uintptr(g.FD), unix.F_GETFD, 0)
		check(t, err)
		if flags&unix.FD_CLOEXEC == 0 {
			t.Error("not close-on-exec")
		}
	}
	wantNotices(t, s.Set)
	if got := s.line.Sources(); !slices.Equal(got, []string{"systemd"}) {
		t.Errorf("sources %v", got)
	}
	wantEach(t, s, 2)
}

// By address, whatever the name; O_NONBLOCK is set as the listener says.
func TestPassedByAddress(t *testing.T) {
	sameFiles(t)
	given, _ := unitSockets(t, "shop.socket", 1, v4(0))
	check(t, unix.SetNonblock(given[0].FD, false))
	s := openGiven(t, given, nil, 1, tcp("http", "127.0.0.1", portOf(t, given[0])))
	files, err := s.files(0)
	check(t, err)
	flags, err := unix.FcntlInt(uintptr(files[0]), unix.F_GETFL, 0)
	check(t, err)
	if files[0] != given[0].FD || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("file %d, passed %d, flags %x", files[0], given[0].FD, flags)
	}
	wantArrivals(t, s, []int{20})
}

// The name counts more than the address, and that is said. The same listener is
// found again by a later set.
func TestPassedElsewhere(t *testing.T) {
	sameFiles(t)
	given, _ := unitSockets(t, "http", 1, v4(0))
	port := portOf(t, given[0])
	other := ports.Free(t, 1)
	l := tcp("http", "127.0.0.1", other)
	s := openGiven(t, given, nil, 1, l)
	wantNotices(t, s.Set, sprint("listener http is served on tcp4://127.0.0.1:%d, which systemd passed, and not on 127.0.0.1:%d", port, other))
	if s.port("http") != port {
		t.Errorf("port %d, want %d", s.port("http"), port)
	}
	again, err := s.Open([]Listener{l}, 1)
	check(t, err)
	if again.bound()[0] != s.line.bound()[0] {
		t.Error("another address")
	}
}

func TestPassedFewer(t *testing.T) {
	sameFiles(t)
	keeper := newStore(t)
	given, held := unitSockets(t, "http", 1, v4(0))
	port := portOf(t, given[0])
	s := openGiven(t, given, keeper, 4, tcp("http", "127.0.0.1", port))
	wantNotices(t, s.Set, "listener http: systemd passed 1 socket for 4 slots, the others are bound beside it")
	if l := s.listeners()[0]; l.Mode != ModeReuseport {
		t.Errorf("mode %s", l.Mode)
	}
	keeper.want(t, "http.1 http.2 http.3")
	wantEach(t, s, 4)

	// The slot with systemd's socket leaves: it is idle. Its queue is reset, and
	// it gets nothing though systemd listens.
	check(t, s.steer(true, false, false, false))
	queued := dial(t, loopback(port), 1)[0]
	waitReadable(t, held[0])
	check(t, s.steer(false, true, true, true))
	check(t, s.CloseSlot(0))
	wantReset(t, queued)
	for range 10 {
		dial(t, loopback(port), 20)
		if counts := accept(t, s, 20); counts[0] != 0 {
			t.Fatalf("the idle socket got %v", counts)
		}
	}
	// And even where no other slot accepts.
	check(t, s.steer(false, false, false, false))
	dial(t, loopback(port), 60)
	if counts := accept(t, s, 60); counts[0] != 0 || slices.Contains(counts[1:], 0) {
		t.Errorf("connections by slot: %v", counts)
	}
	for only := 1; only < 4; only++ {
		wantOnly(t, s, only)
	}
	// It comes back with the slot.
	files, err := s.files(0)
	check(t, err)
	if files[0] != given[0].FD {
		t.Errorf("file %d, passed was %d", files[0], given[0].FD)
	}
	wantEach(t, s, 4)
	// One of ours is closed: a copy elsewhere gets no share.
	files, err = s.files(1)
	check(t, err)
	foreign := dup(t, files[0])
	defer unix.Close(foreign)
	check(t, s.steer(true, false, true, true))
	check(t, s.CloseSlot(1))
	keeper.want(t, "http.2 http.3")
	for _, only := range []int{0, 2, 3} {
		wantOnly(t, s, only)
	}
}

func TestPassedMore(t *testing.T) {
	sameFiles(t)
	given, _ := unitSockets(t, "http", 3, v4(0))
	s := openGiven(t, given, nil, 1, tcp("http", "127.0.0.1", portOf(t, given[0])))
	wantNotices(t, s.Set, "systemd passed 3 sockets for 1 slot, the others get no connections")
	s.slots = 3
	wantArrivals(t, s, []int{20, 0, 0})
	_, err := s.files(2)
	check(t, err)
	wantOnly(t, s, 2)
	wantOnly(t, s, 0)
}

// systemd's sockets belong to another user: none can be bound beside them.
func TestPassedOfAnotherUser(t *testing.T) {
	needRoot(t)
	runHelper(t, helperCommand(t, "fallback"))
}

func helpFallback() error {
	for _, c := range []struct{ n, slots int }{{1, 4}, {2, 4}, {2, 2}} {
		n := c.n
		var given []Passed
		at := v4(0)
		for i := range n {
			fd, err := bindNth(at, i)
			if err != nil {
				return err
			}
			if n == 1 {
				if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0); err != nil {
					return err
				}
			}
			if err = unix.Listen(fd, 128); err != nil {
				return err
			}
			if at.port, err = boundPort(fd); err != nil {
				return err
			}
			given = append(given, Passed{FD: fd, Name: "http"})
		}
		if err := fallBackOn(given, at.port, c.slots); err != nil {
			return err
		}
		if err := becomeRoot(); err != nil {
			return err
		}
	}
	return nil
}

// fallBackOn opens slots, and more of them, on sockets of another user.
func fallBackOn(given []Passed, port, slots int) error {
	n := len(given)
	if err := becomeSomebody(); err != nil {
		return err
	}
	s, err := openPassed(given, nil, []Listener{tcp("http", "127.0.0.1", port)}, slots)
	if err != nil {
		return err
	}
	defer s.Close()
	s.slots = 4
	if slots == n {
		if _, err := s.files(slots); err != nil {
			return err
		}
		slots++
	}
	want := sprint("listener http: systemd passed %s for %d slots, and none can be bound beside it: shared by all slots", count(n, "socket"), slots)
	if got := s.Notices(); len(got) != 1 || got[0] != want {
		return errors.New(sprint("notices %q, want %q", got, want))
	}
	if l := s.listeners()[0]; l.Mode != ModeShared {
		return errors.New("mode " + l.Mode)
	}
	for slot := range 6 {
		files, err := s.files(slot)
		if err != nil {
			return err
		}
		if files[0] != given[slot%n].FD {
			return errors.New(sprint("slot %d has %d of %v", slot, files[0], given))
		}
	}
	// Slot 3 alone accepts: with two sockets, the second gets everything.
	if err := s.steer(false, false, false, true); err != nil {
		return err
	}
	for range 20 {
		if err := connectOnce(port); err != nil {
			return err
		}
	}
	counts, err := acceptFrom(s, 20)
	if err != nil {
		return err
	}
	if counts[3%n] != 20 {
		return errors.New(sprint("connections by slot: %v", counts))
	}
	for slot := range 4 {
		if err := s.CloseSlot(slot); err != nil {
			return err
		}
	}
	return connectOnce(port)
}

// becomeSomebody changes the effective user alone, so that root can come back.
func becomeSomebody() error { return syscall.Setresuid(-1, 65534, -1) }

func becomeRoot() error { return syscall.Setresuid(-1, 0, -1) }

func TestPassedRefused(t *testing.T) {
	sameFiles(t)
	socket := func(family, kind int) int {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		check(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	udp, bare, packets := socket(unix.AF_INET, unix.SOCK_DGRAM), socket(unix.AF_INET, unix.SOCK_STREAM), socket(unix.AF_UNIX, unix.SOCK_SEQPACKET)
	link := socket(unix.AF_NETLINK, unix.SOCK_RAW)
	mptcp, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		mptcp = -1
	} else {
		defer unix.Close(mptcp)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	reader, writer, err := os.Pipe()
	check(t, err)
	defer reader.Close()
	defer writer.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	check(t, err)
	defer file.Close()
	good, _ := unitSockets(t, "http", 1, v4(0))
	defer unix.Close(good[0].FD)
	for _, c := range []struct {
		fd   int
		says string
	}{
		{udp, "a socket of another kind"},
		{bare, "a socket that does not listen"},
		{packets, "a socket of another kind"},
		{link, "a socket of another kind"},
		{mptcp, "a socket of another kind"},
		{pair[0], "a connection, as with Accept=yes"},
		{int(reader.Fd()), "a pipe"},
		{int(file.Fd()), "a regular file"},
		{999999, "no open descriptor"},
	} {
		if c.fd < 0 {
			continue
		}
		_, err := New("shop", strangers, []Passed{good[0], {FD: c.fd, Name: "web"}}, nil)
		wantError(t, err, sprint(`cannot use descriptor %d that was passed as "web": it is %s`, c.fd, c.says))
	}
}

// Of another family than the listener of its name: both are named.
func TestPassedOfAnotherFamily(t *testing.T) {
	sameFiles(t)
	six := endpoint{addr: netip.IPv6Loopback()}
	dual := endpoint{addr: netip.IPv6Unspecified(), dual: true}
	with := func(l Listener, network string) Listener { l.Network = network; return l }
	for _, c := range []struct {
		at    endpoint
		l     Listener
		fails bool
	}{
		{v4(0), unixAt("/run/http.sock"), true},
		{v4(0), with(tcp("http", "", 8080), "tcp6"), true},
		{dual, with(tcp("http", "", 8080), "tcp6"), true},
		{dual, with(tcp("http", "", 8080), "tcp4"), true},
		{six, tcp("http", "127.0.0.1", 8080), true},
		{v4(0), tcp("http", "", 8080), false},
		{six, with(tcp("http", "", 8080), "tcp6"), false},
	} {
		c.l.Name = "http"
		given, _ := unitSockets(t, "http", 1, c.at)
		before := openFiles()
		s, err := New("shop", strangers, given, nil)
		check(t, err)
		_, err = s.Open([]Listener{c.l}, 2)
		if c.fails {
			wantError(t, err, "cannot listen on "+c.l.String(), `socket "http" that systemd passed (`, "is of another family: change")
			if after := openFiles(); after != before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
		} else if err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		s.Close()
	}
}

func TestPassedUnix(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	check(t, err)
	defer ln.Close()
	ln.SetUnlinkOnClose(false)
	given := func() []Passed {
		file, err := ln.File()
		check(t, err)
		defer file.Close()
		return []Passed{{FD: dup(t, int(file.Fd())), Name: "shop.socket"}}
	}
	s := openGiven(t, given(), nil, 3, unixAt(path))
	wantServed(t, s, path)
	check(t, s.steer(false, false, false))
	for slot := range 3 {
		check(t, s.CloseSlot(slot))
	}
	s.CloseListeners()
	wantFiles(t, path, "app.sock") // systemd's: it stays, and goes on listening
	s = openGiven(t, given(), nil, 1, unixAt(path))
	wantServed(t, s, path)
}

func TestPassedUnwanted(t *testing.T) {
	sameFiles(t)
	keeper := newStore(t)
	given, _ := unitSockets(t, "old.socket", 1, v4(0))
	port := portOf(t, given[0])
	stored, held := unitSockets(t, "gone.0", 1, v4(0))
	keeper.Store("gone.0", stored[0].FD)
	s := openGiven(t, append(append(given, stored...), recordOf(t, stored...)), keeper, 1, tcp("http", "127.0.0.1", 0))
	wantNotices(t, s.Set, `no listener is socket "old.socket" that systemd passed (tcp4://`, `no listener is socket "gone.0"`)
	if state, err := inspect(held[0]); err != nil || state.listens {
		t.Errorf("the stored one: %+v, %v", state, err)
	}
	keeper.want(t, "http.0")
	if now, err := boundPort(given[0].FD); err == nil && now == port {
		t.Error("the unit's is open still")
	}
}

// The same listener in mode shared takes one socket, and refuses more.
func TestPassedShared(t *testing.T) {
	sameFiles(t)
	given, _ := unitSockets(t, "http", 1, v4(0))
	port := portOf(t, given[0])
	s := openGiven(t, given, nil, 3, inMode(ModeShared, tcp("http", "127.0.0.1", port)))
	wantNotices(t, s.Set)
	wantArrivals(t, s, []int{20, 0, 0})
	conn := dial(t, loopback(port), 1)[0]
	for slot := range 3 {
		check(t, s.CloseSlot(slot))
	}
	wantReset(t, conn)
	dial(t, loopback(port), 1) // systemd listens on

	two, _ := unitSockets(t, "http", 2, v4(0))
	set, err := New("shop", strangers, two, nil)
	check(t, err)
	defer set.Close()
	_, err = set.Open([]Listener{inMode(ModeShared, tcp("http", "127.0.0.1", portOf(t, two[0])))}, 3)
	wantError(t, err, `systemd passed 2 sockets for it, and mode "shared" takes one`)
}

func TestPassedEach(t *testing.T) {
	sameFiles(t)
	base := ports.Free(t, 3)
	second, _ := unitSockets(t, "shop.socket", 1, v4(base+1))
	first, _ := unitSockets(t, "shop.socket", 1, v4(base))
	s := openGiven(t, append(second, first...), nil, 3, inMode(ModeEach, tcp("http", "127.0.0.1", base)))
	for slot, want := range []int{first[0].FD, second[0].FD} {
		files, err := s.files(slot)
		check(t, err)
		if files[0] != want {
			t.Errorf("slot %d has %d, want %d", slot, files[0], want)
		}
	}
	for slot := range 3 {
		dial(t, loopback(base+slot), 1)
	}
	check(t, s.CloseSlot(0))
	check(t, s.CloseSlot(2))
	dial(t, loopback(base), 1)
	wantRefused(t, loopback(base+2))
}
