package sockets

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/ports"
)

// A killed master: its successor has every socket again, in the kernel's order,
// and what was queued.
func TestStored(t *testing.T) {
	sameFiles(t)
	keeper := newStore(t)
	path := socketPath(t)
	each := ports.Free(t, 4)
	ls := []Listener{
		tcp("http", "", 0), unixAt(path), inMode(ModeShared, tcp("admin", "127.0.0.1", 0)), inMode(ModeEach, tcp("own", "127.0.0.1", each)),
	}
	first := openGiven(t, nil, keeper, 4, ls...)
	keeper.want(t, "admin.0 app.0 http.0 http.1 http.2 http.3 own.0 own.1 own.2 own.3")
	check(t, first.steer(true, false, true, true))
	check(t, first.CloseSlot(1))
	_, err := first.files(1) // the order is 0 3 2 1 since
	check(t, err)
	check(t, first.steer(false, true, false, false))
	port := first.port("http")
	dial(t, loopback(port), 5)
	first.Close()
	wantFiles(t, path, ".app.sock.forkd", "app.sock")

	s, err := New("shop", strangers, keeper.passed(), keeper)
	check(t, err)
	t.Cleanup(s.Close)
	if n := s.StoredSlots(); n != 4 {
		t.Errorf("%d stored slots", n)
	}
	line, err := s.Open(ls, 4)
	check(t, err)
	second := &testApp{s, line, 4}
	wantNotices(t, s)
	if second.port("http") != port {
		t.Errorf("port %d, was %d", second.port("http"), port)
	}
	if counts := accept(t, second, 5); !slices.Equal(counts, []int{0, 5, 0, 0}) {
		t.Errorf("what was queued, by slot: %v", counts)
	}
	wantEach(t, second, 4)
	wantServed(t, second, path)
	check(t, os.Remove(path))
	if changed, err := s.Restore(AllSlots); len(changed) != 1 || err != nil {
		t.Errorf("restored %v, %v", changed, err)
	}
	wantServed(t, second, path)
	s.CloseListeners()
	if got := keeper.names(); len(got) != 0 {
		t.Errorf("stored after a stop: %v", got)
	}
	wantFiles(t, path)
	wantRefused(t, loopback(port))
}

// Fewer slots than before, and one socket that a worker has shut down.
func TestStoredInPart(t *testing.T) {
	sameFiles(t)
	keeper := newStore(t)
	first := openGiven(t, nil, keeper, 4, tcp("http", "127.0.0.1", 0))
	port := first.port("http")
	files, err := first.files(1)
	check(t, err)
	check(t, unix.Shutdown(files[0], unix.SHUT_RDWR))
	check(t, first.steer(false, false, false, true))
	queued := dial(t, loopback(port), 1)[0]
	first.Close()

	s := openGiven(t, keeper.passed(), keeper, 3, tcp("http", "127.0.0.1", port))
	wantNotices(t, s.Set, "the stored socket of slot 1 does not listen any more: dropped", "the stored socket of slot 3 is closed: there will be 3 slots")
	wantReset(t, queued)
	keeper.want(t, "http.0 http.1 http.2")
	wantEach(t, s, 3)
}

// A socket unit's and stored ones, under a name and mode that have changed.
func TestStoredBesideUnit(t *testing.T) {
	sameFiles(t)
	keeper := newStore(t)
	given, held := unitSockets(t, "http", 1, v4(0))
	port := portOf(t, given[0])
	first := openGiven(t, given, keeper, 3, tcp("http", "127.0.0.1", port))
	first.Close()
	again := append([]Passed{{FD: dup(t, held[0]), Name: "http"}}, keeper.passed()...)
	s := openGiven(t, again, keeper, 3, tcp("http", "127.0.0.1", port))
	wantNotices(t, s.Set)
	wantEach(t, s, 3)
	s.Close()

	again = append([]Passed{{FD: dup(t, held[0]), Name: "http"}}, keeper.passed()...)
	s = openGiven(t, again, keeper, 3, inMode(ModeShared, tcp("web", "127.0.0.1", port)))
	if got := s.Notices(); len(got) != 2 || !strings.Contains(got[0], "http.1") {
		t.Errorf("notices %q", got)
	}
	keeper.want(t, "")
	wantArrivals(t, s, []int{20, 0, 0})
}

// A socket unit may call its socket what the fd store calls one, even where that
// has one of the name: systemd's is never ended.
func TestPassedUnderTheNameOfAStored(t *testing.T) {
	sameFiles(t)
	keeper := newStore(t)
	unit, held := unitSockets(t, "web.0", 1, v4(0))
	stored, _ := unitSockets(t, "web.0", 1, v4(0))
	port := portOf(t, unit[0])
	web := tcp("web", "127.0.0.1", portOf(t, stored[0]))
	s := openGiven(t, []Passed{unit[0], stored[0], recordOf(t, stored...)}, keeper, 1, web, tcp("http", "127.0.0.1", port))
	wantNotices(t, s.Set)
	if got := s.line.Sources(); !slices.Equal(got, []string{"bound", "systemd"}) {
		t.Errorf("sources %v", got)
	}
	files, err := s.files(0)
	check(t, err)
	if want := []int{stored[0].FD, unit[0].FD}; !slices.Equal(files, want) {
		t.Errorf("files %v, want %v", files, want)
	}
	check(t, s.CloseSlot(0))
	s.CloseListeners()
	if state, err := inspect(held[0]); err != nil || !state.listens {
		t.Errorf("the unit's: %+v, %v", state, err)
	}

	// And where no listener wants it.
	s = openGiven(t, []Passed{{FD: dup(t, held[0]), Name: "web.0"}}, nil, 1, tcp("web", "127.0.0.1", 0))
	wantNotices(t, s.Set, "and systemd goes on listening there")
	if state, err := inspect(held[0]); err != nil || !state.listens {
		t.Errorf("the unit's: %+v, %v", state, err)
	}
	if n := s.StoredSlots(); n != 0 {
		t.Errorf("%d stored slots", n)
	}
}

// The record is stored before the sockets of which it tells, and tells of all.
func TestStoredIsRecordedFirst(t *testing.T) {
	keeper := newStore(t)
	s := openGiven(t, nil, keeper, 2, tcp("http", "127.0.0.1", 0), unixAt(socketPath(t)))
	_, err := s.files(3)
	check(t, err)
	if first := keeper.order[0]; first != recordName {
		t.Errorf("%s was stored first", first)
	}
	var o recordFile
	given := keeper.passed()
	for _, g := range given {
		o.take(g)
	}
	for _, g := range given {
		if g.Name != recordName && !slices.Contains(o.read.Stored, cookie(g.FD)) {
			t.Errorf("%s is not in the record", g.Name)
		}
		unix.Close(g.FD)
	}
}

func TestImplied(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	check(t, err)
	file, err := ln.File()
	check(t, err)
	unixFD := dup(t, int(file.Fd()))
	file.Close()
	ln.SetUnlinkOnClose(false)
	ln.Close()
	web, _ := unitSockets(t, "shop.socket", 2, endpoint{addr: netip.IPv6Unspecified(), dual: true})
	admin, _ := unitSockets(t, "shop.socket", 1, v4(0))
	six, _ := unitSockets(t, "unknown", 1, endpoint{addr: netip.IPv6Loopback()})
	given := slices.Concat(web, admin, six, []Passed{{FD: unixFD, Name: "php"}})
	ports := []int{portOf(t, web[0]), portOf(t, admin[0]), portOf(t, six[0])}
	s, err := New("shop", strangers, given, nil)
	check(t, err)
	t.Cleanup(s.Close)
	want := []Listener{
		{Name: "shop", Network: "tcp", Port: ports[0], Mode: ModeReuseport, Balance: BalanceHash, Backlog: 128, Nonblocking: true},
		{Name: sprint("%d", ports[1]), Network: "tcp4", Host: "127.0.0.1", Port: ports[1], Mode: ModeReuseport, Balance: BalanceHash, Backlog: 128, Nonblocking: true},
		{Name: sprint("%d", ports[2]), Network: "tcp6", Host: "::1", Port: ports[2], Mode: ModeReuseport, Balance: BalanceHash, Backlog: 128, Nonblocking: true},
		{Name: "php", Network: "unix", Path: path, Mode: ModeShared, Backlog: 4096, Nonblocking: true},
	}
	got := s.Implied()
	if !slices.Equal(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
	line, err := s.Open(got, 2)
	check(t, err)
	if sources := line.Sources(); !slices.Equal(sources, []string{"systemd", "systemd", "systemd", "systemd"}) {
		t.Errorf("sources %v", sources)
	}
	wantServed(t, &testApp{s, line, 2}, path)
}

func TestRecordIsForgotten(t *testing.T) {
	for _, text := range []string{"", "{", `{"orders":{"a":[0,0]}}`, `{"orders":{"a":[-7,-7]}}`, `{"orders":{"a":[1024]}}`, `[1]`, `{"orders":{"a":"b"}}`, `{"stored":[-1]}`} {
		if got := parseRecord(strings.NewReader(text)); len(got.Orders)+len(got.Stored) != 0 {
			t.Errorf("%q reads as %v", text, got)
		}
	}
	if got := parseRecord(strings.NewReader(`{"orders":{"a":[2,-7,0,1]},"stored":[18446744073709551615]}],"b"`)); !slices.Equal(got.Orders["a"], []int{2, -7, 0, 1}) || !slices.Equal(got.Stored, []uint64{1<<64 - 1}) {
		t.Errorf("read %v", got)
	}
	end := endpoint{addr: netip.IPv6Unspecified(), port: 80, dual: true}
	if end.key() == (endpoint{addr: end.addr, port: 80}).key() {
		t.Error("two sockets with one key")
	}
}
