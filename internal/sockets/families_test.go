package sockets

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/ports"
)

// asking is a program with a socket that it is about to bind.
func asking(t *testing.T, host string, port int, v6, v6only bool) Program {
	t.Helper()
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return Program{Network: "tcp", Address: netip.AddrPortFrom(netip.MustParseAddr(host), uint16(port)), V6: v6, V6Only: v6only, Socket: fd}
}

func askingV4(t *testing.T, port int) Program { return asking(t, "0.0.0.0", port, false, false) }

func askingDual(t *testing.T, port int) Program { return asking(t, "::", port, true, false) }

func askingPath(t *testing.T, path string) Program {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return Program{Network: "unix", Path: path, Socket: fd}
}

// take has the slot's worker ask for a socket.
func (a *testApp) take(t *testing.T, slot int, p Program) int {
	t.Helper()
	listener, ok := a.line.Match(slot, p)
	if !ok {
		t.Fatalf("no listener is at %+v", p)
	}
	fd, err := a.line.Take(slot, listener, p, slot)
	check(t, err)
	if found, ok := a.line.Find(slot, cookie(fd)); !ok || found != listener {
		t.Errorf("the socket is found as of listener %d, %v", found, ok)
	}
	if all := a.line.Inodes(slot); !slices.Contains(all, inode(fd)) {
		t.Errorf("inode %d is not among %v", inode(fd), all)
	}
	return fd
}

// wantBound fails unless the descriptor listens there.
func wantBound(t *testing.T, fd int, host string, port int, dual bool) {
	t.Helper()
	at, err := localAddr(fd)
	check(t, err)
	state, err := inspect(fd)
	if want := (endpoint{addr: netip.MustParseAddr(host), port: port, dual: dual}); at.end != want || !state.listens || err != nil {
		t.Errorf("it is at %+v, want %+v; %+v, %v", at.end, want, state, err)
	}
}

func v6loopback(port int) string { return joinPort("::1", port) }

func TestMatch(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	port := ports.Free(t, 4)
	at := func(network, host, mode string) Listener {
		return Listener{Name: "http", Network: network, Host: host, Port: port, Mode: mode, Backlog: 9, Nonblocking: true}
	}
	a, b := at("tcp4", "127.0.0.1", ""), at("tcp4", "127.0.0.2", "")
	b.Name = "other"
	for _, c := range []struct {
		ls      []Listener
		host    string
		slot    int
		port    int
		v6      bool
		v6only  bool
		matches int
	}{
		{[]Listener{at("tcp", "", "")}, "0.0.0.0", 0, 0, false, false, 0},
		{[]Listener{at("tcp", "", "")}, "127.0.0.1", 0, 0, false, false, 0},
		{[]Listener{at("tcp", "", "")}, "::", 0, 0, true, false, 0},
		{[]Listener{at("tcp", "", "")}, "::", 0, 0, true, true, 0},
		{[]Listener{at("tcp", "", "")}, "::1", 0, 0, true, true, 0},
		{[]Listener{at("tcp", "", "")}, "::ffff:127.0.0.1", 0, 0, true, false, 0},
		{[]Listener{at("tcp", "", "")}, "0.0.0.0", 0, 1, false, false, -1},
		{[]Listener{at("tcp4", "", "")}, "::", 0, 0, true, false, 0},
		{[]Listener{at("tcp4", "", "")}, "::", 0, 0, true, true, -1},
		{[]Listener{at("tcp4", "", "")}, "::1", 0, 0, true, false, -1},
		{[]Listener{at("tcp4", "", "")}, "127.0.0.7", 0, 0, false, false, 0},
		{[]Listener{at("tcp6", "", "")}, "::", 0, 0, true, false, 0},
		{[]Listener{at("tcp6", "", "")}, "::1", 0, 0, true, true, 0},
		{[]Listener{at("tcp6", "", "")}, "0.0.0.0", 0, 0, false, false, -1},
		{[]Listener{a, b}, "127.0.0.1", 0, 0, false, false, 0},
		{[]Listener{a, b}, "127.0.0.2", 0, 0, false, false, 1},
		{[]Listener{a, b}, "127.0.0.3", 0, 0, false, false, -1},
		{[]Listener{a, b}, "::ffff:127.0.0.2", 0, 0, true, false, 1},
		{[]Listener{at("tcp4", "", ""), at("tcp6", "", "")}, "::", 0, 0, true, false, 1},
		{[]Listener{a}, "0.0.0.0", 0, 0, false, false, 0},
		{[]Listener{a}, "::", 0, 0, true, false, 0},
		{[]Listener{at("tcp4", "", ModeShared)}, "0.0.0.0", 2, 0, false, false, 0},
		{[]Listener{at("tcp4", "", ModeEach)}, "0.0.0.0", 2, 2, false, false, 0},
		{[]Listener{at("tcp4", "", ModeEach)}, "0.0.0.0", 2, 0, false, false, 0},
		{[]Listener{at("tcp4", "", ModeEach)}, "0.0.0.0", 2, 1, false, false, -1},
		{[]Listener{unixAt(path)}, "0.0.0.0", 2, 0, false, false, -1},
	} {
		s, err := openApp(c.ls, 3)
		check(t, err)
		p := asking(t, c.host, port+c.port, c.v6, c.v6only)
		if got, ok := s.line.Match(c.slot, p); got != c.matches || ok != (c.matches >= 0) {
			t.Errorf("%s at %s: a program that binds %s, V6ONLY %v: %d, want %d", c.ls[0].Network, c.ls[0], p.Address, c.v6only, got, c.matches)
		}
		s.Close()
	}
}

// A program of IPv4 under a dual-stack listener gets a socket of that. The family that
// nobody has asked for is refused then, also where a worker has a copy of its socket.
func TestTakeFamily(t *testing.T) {
	sameFiles(t)
	keeper := newStore(t)
	a := openGiven(t, nil, keeper, 3, tcp("http", "", 0))
	port := a.port("http")
	files, err := a.files(0)
	check(t, err)
	inherited := dup(t, files[0])
	defer unix.Close(inherited)
	wantBound(t, files[0], "::", port, true)
	a.line.Settle() // nobody has asked for anything
	early := dial(t, v6loopback(port), 1)[0]

	fd := a.take(t, 0, askingV4(t, port))
	wantBound(t, fd, "0.0.0.0", port, false)
	if again := a.take(t, 0, asking(t, "127.0.0.1", port, false, false)); again != fd {
		t.Errorf("asked again: descriptor %d, was %d", again, fd)
	}
	dial(t, loopback(port), 5)
	waitReadable(t, fd)
	if n := len(keeper.fds["http.0"]); n != 2 {
		t.Errorf("%d sockets of slot 0 are stored", n)
	}
	a.line.Settle()
	if n := len(keeper.fds["http.0"]); n != 1 {
		t.Errorf("%d sockets of slot 0 are stored still", n)
	}
	wantReset(t, early)
	wantRefused(t, v6loopback(port))
	if state, err := inspect(inherited); err != nil || state.listens {
		t.Errorf("a worker's copy: %+v, %v", state, err)
	}
	if counts := accept(t, a, 5); counts[0] != 5 {
		t.Errorf("connections by slot: %v", counts)
	}
	for slot := range 4 { // the last one comes by scaling
		files, err := a.files(slot)
		check(t, err)
		wantBound(t, files[0], "0.0.0.0", port, false)
		if got := a.take(t, slot, askingV4(t, port)); got != files[0] {
			t.Errorf("slot %d: took %d, inherited %d", slot, got, files[0])
		}
	}
	keeper.want(t, "http.0 http.1 http.2 http.3")
	a.slots = 4
	wantEach(t, a, 4)
	check(t, a.CloseSlot(3))
	if l := a.line.Listeners(0)[0]; l.Port != port || l.Mode != ModeReuseport {
		t.Errorf("listener %+v", l)
	}

	// One that asks for both gets both.
	fd = a.take(t, 1, askingDual(t, port))
	wantBound(t, fd, "::", port, true)
	a.line.Settle()
	dial(t, v6loopback(port), 3)
	if counts := accept(t, a, 3); counts[1] != 3 {
		t.Errorf("connections by slot: %v", counts)
	}
	if changed, err := a.RestoreAll(); len(changed)+len(a.Others()) != 0 || err != nil {
		t.Errorf("restored %v, %v", changed, err)
	}
}

// A program with a socket for each family, as nginx and asyncio.
func TestFamiliesApart(t *testing.T) {
	sameFiles(t)
	a := open(t, 2, tcp("http", "", 0))
	port := a.port("http")
	for slot := range 2 {
		wantBound(t, a.take(t, slot, askingV4(t, port)), "0.0.0.0", port, false)
		wantBound(t, a.take(t, slot, asking(t, "::", port, true, true)), "::", port, false)
	}
	a.line.Settle()
	for only := range 2 {
		wantOnly(t, a, only)
		dial(t, v6loopback(port), 10)
		if counts := accept(t, a, 10); counts[only] != 10 {
			t.Errorf("connections by slot: %v", counts)
		}
	}
}

// A listener of one family has one socket, whatever the program's is.
func TestOneFamily(t *testing.T) {
	sameFiles(t)
	a := open(t, 1, tcp("http", "127.0.0.1", 0))
	port := a.port("http")
	wantBound(t, a.take(t, 0, askingDual(t, port)), "127.0.0.1", port, false)
	a.line.Settle()
	wantArrivals(t, a, []int{20})
}

// Families in the modes whose sockets nobody else joins.
func TestFamiliesByMode(t *testing.T) {
	sameFiles(t)
	for _, mode := range []string{ModeShared, ModeEach} {
		port := ports.Free(t, 3)
		keeper := newStore(t)
		a := openGiven(t, nil, keeper, 2, inMode(mode, tcp("http", "", port)))
		for slot := range 2 {
			own := port
			if mode == ModeEach {
				own += slot
			}
			wantBound(t, a.take(t, slot, askingV4(t, own)), "0.0.0.0", own, false)
			check(t, a.line.Fits(2))
		}
		a.line.Settle()
		if n := len(keeper.fds["http.0"]); n != 1 {
			t.Errorf("%d sockets of slot 0 are stored", n)
		}
		wantRefused(t, v6loopback(port))
		wantArrivals(t, a, []int{20, 0})
		files, err := a.files(2)
		check(t, err)
		own := port
		if mode == ModeEach {
			own += 2
			wantRefused(t, v6loopback(own))
		}
		wantBound(t, files[0], "0.0.0.0", own, false)
		a.Close()
	}
}

// load asks without end until stop is called, which returns how often.
func load(t *testing.T, address string) (stop func() int) {
	t.Helper()
	var ended atomic.Bool
	var clients sync.WaitGroup
	var asked atomic.Int64
	for range 4 {
		clients.Go(func() {
			for !ended.Load() {
				if _, err := ask(address); err != nil {
					t.Errorf("a connection failed: %v", err)
				}
				asked.Add(1)
			}
		})
	}
	return func() int {
		ended.Store(true)
		clients.Wait()
		return int(asked.Load())
	}
}

// serving accepts from a copy of a descriptor until the test ends, as a worker does.
func serving(t *testing.T, fd int) {
	t.Helper()
	copied := dup(t, fd)
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	check(t, err)
	var server sync.WaitGroup
	server.Go(func() {
		if err := serve(copied, stop, 0); err != nil {
			t.Errorf("a worker: %v", err)
		}
	})
	t.Cleanup(func() {
		_, err := unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		check(t, err)
		server.Wait()
		unix.Close(stop)
		unix.Close(copied)
	})
}

// No client of a family that a program has fails, whatever becomes of the other one, and
// in the next set neither. Not for a moment does a client of the other one wait.
func TestFamiliesUnderLoad(t *testing.T) {
	const slots, rounds = 3, 20
	sameFiles(t)
	ls := []Listener{tcp("http", "", 0)}
	a := open(t, slots, ls...)
	port := a.port("http")
	check(t, a.steer(true, true, true))
	serving(t, a.take(t, 0, askingV4(t, port)))
	stop := load(t, loopback(port))
	for slot := 1; slot < slots; slot++ {
		serving(t, a.take(t, slot, askingV4(t, port)))
	}
	a.line.Settle()
	var refused atomic.Int64
	done, others := make(chan struct{}), sync.WaitGroup{}
	others.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				wantRefused(t, v6loopback(port))
				refused.Add(1)
			}
		}
	})
	for range rounds {
		before := refused.Load()
		next, err := a.Open(ls, slots)
		check(t, err)
		for slot := range slots {
			check(t, a.Steer(slices.Concat(slices.Repeat([]*ListenerSet{next}, slot+1), slices.Repeat([]*ListenerSet{a.line}, slots-slot-1))))
			files, err := next.Files(slot)
			check(t, err)
			wantBound(t, files[0], "0.0.0.0", port, false)
		}
		a.Release(a.line)
		a.line = next
		a.take(t, 0, askingV4(t, port))
		next.Settle()
		for refused.Load() < before+3 && !t.Failed() {
			_, err := a.RestoreAll()
			check(t, err)
		}
	}
	close(done)
	others.Wait()
	if n := stop(); n == 0 {
		t.Error("nobody asked")
	}
}

// In a roll the program has another family than before: its clients move with the slots,
// and none waits where nobody serves. And back.
func TestFamilyChangesInRoll(t *testing.T) {
	sameFiles(t)
	ls := []Listener{tcp("http", "", 0)}
	a := open(t, 2, ls...)
	port := a.port("http")
	for slot := range 2 {
		a.take(t, slot, askingV4(t, port))
	}
	a.line.Settle()
	next, err := a.Open(ls, 2)
	check(t, err)
	b := &testApp{a.Set, next, 2}
	for slot := range 2 {
		_, err := b.files(slot)
		check(t, err)
		wantBound(t, b.take(t, slot, askingDual(t, port)), "::", port, true)
		next.Settle()
		serving := []*ListenerSet{next, a.line}
		if slot == 1 {
			serving[1] = next
		}
		check(t, a.Steer(serving))
		dial(t, v6loopback(port), 10)
		dial(t, loopback(port), 10)
		counts := accept(t, a, 20)
		if slot == 0 && !slices.Equal(counts, []int{10, 10}) || slices.Contains(counts, 0) {
			t.Errorf("connections by slot: %v", counts)
		}
	}
	if n := len(a.all()); n != 2 {
		t.Errorf("%d sockets are open", n)
	}
	for slot := range 2 { // rolled back
		files, err := a.files(slot)
		check(t, err)
		wantBound(t, files[0], "0.0.0.0", port, false)
		a.take(t, slot, askingV4(t, port))
	}
	check(t, a.steer(true, true))
	a.Release(next)
	wantRefused(t, v6loopback(port))
	wantEach(t, a, 2)
}

// A killed master's successor goes on with the families that were settled on, on a port
// that the kernel had picked too.
func TestFamiliesStored(t *testing.T) {
	sameFiles(t)
	for _, settled := range []bool{true, false} {
		keeper := newStore(t)
		ls := []Listener{tcp("http", "", 0), tcp("admin", "", 0)}
		first := openGiven(t, nil, keeper, 3, ls...)
		port := first.port("http")
		for slot := range 3 {
			first.take(t, slot, askingV4(t, port))
		}
		if settled {
			first.line.Settle()
		}
		check(t, first.steer(false, true, false))
		queued := dial(t, loopback(port), 4)
		first.Close()

		s := openGiven(t, keeper.passed(), keeper, 3, ls...)
		wantNotices(t, s.Set)
		if s.port("http") != port {
			t.Fatalf("port %d, was %d", s.port("http"), port)
		}
		if counts := accept(t, s, len(queued)); counts[1] != len(queued) {
			t.Errorf("what was queued, by slot: %v", counts)
		}
		for slot := range 3 {
			s.take(t, slot, askingV4(t, port))
		}
		s.line.Settle()
		wantRefused(t, v6loopback(port))
		wantEach(t, s, 3)
		dial(t, v6loopback(s.port("admin")), 6)
		accept(t, s, 6)
		keeper.want(t, "admin.0 admin.1 admin.2 http.0 http.1 http.2")
		s.CloseListeners()
		if got := keeper.names(); len(got) != 0 {
			t.Errorf("stored after a stop: %v", got)
		}
	}
}

// A socket unit's socket is joined where its user is the master's, and never ended.
func TestFamilyBesideUnit(t *testing.T) {
	sameFiles(t)
	given, held := unitSockets(t, "http", 1, endpoint{addr: netip.IPv6Unspecified(), dual: true})
	port := portOf(t, given[0])
	s := openGiven(t, given, nil, 1, tcp("http", "", port))
	wantBound(t, s.take(t, 0, askingV4(t, port)), "0.0.0.0", port, false)
	s.line.Settle()
	wantNotices(t, s.Set, sprint("listener http: its program has not asked for all that systemd listens on, and nobody serves tcp://:%d: write the program's address", port))
	if state, err := inspect(held[0]); err != nil || !state.listens {
		t.Errorf("the unit's: %+v, %v", state, err)
	}
	wantArrivals(t, s, []int{20})
}

// The other families of a socket unit that is another user's cannot be had.
func helpFamilyOfAnother() error {
	fd, err := bindNth(endpoint{addr: netip.IPv6Unspecified(), dual: true}, 0)
	if err != nil {
		return err
	}
	if err := unix.Listen(fd, 9); err != nil {
		return err
	}
	port, err := boundPort(fd)
	if err != nil {
		return err
	}
	if err := becomeSomebody(); err != nil {
		return err
	}
	s, err := openPassed([]Passed{{FD: fd, Name: "http"}}, nil, []Listener{tcp("http", "", port)}, 1)
	if err != nil {
		return err
	}
	holders(endpoint{addr: ipv4Loopback, port: port}) // the runtime's own descriptors come with the first file
	before := openFiles()
	_, err = s.line.Take(0, 0, Program{Network: "tcp", Address: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port)), Socket: -1}, nil)
	if want := fmt.Sprintf("write ListenStream=0.0.0.0:%d into the socket unit", port); err == nil || !containsAll(err.Error(), want, "which the program asks for, beside socket \"http\"") {
		return fmt.Errorf("error %w", err)
	}
	if after := openFiles(); after != before {
		return fmt.Errorf("%d descriptors, before %d", after, before)
	}
	conn, err := net.DialTimeout("tcp", v6loopback(port), waitTimeout)
	if err != nil {
		return err
	}
	return conn.Close()
}

func TestFamilyOfAnotherUser(t *testing.T) {
	needRoot(t)
	runHelper(t, helperCommand(t, "family"))
}

// The socket is as the program had made its own, and as new when nobody has it.
func TestTakeOptions(t *testing.T) {
	sameFiles(t)
	for name, l := range map[string]Listener{"tcp": tcp("http", "", 0), "shared": inMode(ModeShared, tcp("http", "", 0)), "unix": unixAt(socketPath(t))} {
		t.Run(name, func(t *testing.T) {
			a := open(t, 1, l)
			files, err := a.files(0)
			check(t, err)
			fresh := readOptions(files[0])
			p := askingPath(t, l.Path)
			if name != "unix" {
				p = askingDual(t, a.port("http"))
			}
			fd := a.take(t, 0, p)
			if now := readOptions(fd); !slices.EqualFunc(now, fresh, slices.Equal) {
				t.Errorf("a program with a new socket has changed %v to %v", fresh, now)
			}
			harmed := harmOptions(t, p.Socket)
			if want := a.take(t, 0, p); want != fd {
				t.Errorf("took %d, then %d", fd, want)
			}
			theirs, all := readOptions(p.Socket), options()
			for i, now := range readOptions(fd) {
				if label := all[i].label; slices.Equal(now, theirs[i]) == (label == "SO_BINDTODEVICE" && slices.Contains(harmed, label)) && label != "TCP_MAXSEG" {
					t.Errorf("%s is %v, the program's is %v", label, now, theirs[i])
				}
			}
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			if err != nil || flags&unix.O_NONBLOCK != 0 {
				t.Errorf("flags %x, %v", flags, err)
			}
			if state, err := a.line.served[0].families[0].user(0).inspect(); err != nil || int(state.backlog) != l.Backlog {
				t.Errorf("backlog %+v, %v", state, err)
			}
			check(t, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 9})) // by the worker, later
			if changed, err := a.Reset(0); !slices.Equal(changed, []string{"SO_LINGER"}) || err != nil {
				t.Errorf("set back %v, %v", changed, err)
			}
			if now := readOptions(fd); !slices.EqualFunc(now, fresh, slices.Equal) {
				t.Errorf("set back to %v, was %v", now, fresh)
			}
			flags, err = unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			if err != nil || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("flags %x, %v", flags, err)
			}
		})
	}
}

func TestTakeNothing(t *testing.T) {
	a := open(t, 1, tcp("http", "", 0))
	p := askingV4(t, a.port("http"))
	for _, c := range [][2]int{{-1, 0}, {maxSlots, 0}, {0, 1}, {0, -1}} {
		if _, err := a.line.Take(c[0], c[1], p, nil); err == nil {
			t.Errorf("slot %d, listener %d", c[0], c[1])
		}
	}
	if at, ok := a.line.Find(0, 1); ok || at != -1 {
		t.Errorf("found %d", at)
	}
	a.Release(a.line)
	_, err := a.line.Take(0, 0, p, nil)
	wantError(t, err, "cannot give slot 0 a socket")
}

func containsAll(text string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) })
}
