package sockets

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// joinAt listens on a port as somebody else of the same user does.
func joinAt(t *testing.T, at endpoint) int {
	t.Helper()
	fd, err := at.bind(Listener{Nonblocking: true}, joining)
	check(t, err)
	check(t, unix.Listen(fd, 512))
	return fd
}

func joinPort4(t *testing.T, port int) int {
	t.Helper()
	return joinAt(t, endpoint{addr: ipv4Loopback, port: port})
}

// wantOther has every socket looked at, and fails unless one of another's has come,
// or gone.
func wantOther(t *testing.T, s *Set, gone bool, consequence string) Other {
	t.Helper()
	_, err := s.Restore(AllSlots)
	check(t, err)
	others := s.Others()
	if len(others) != 1 || others[0].Gone != gone || !strings.Contains(others[0].Consequence(), consequence) {
		t.Fatalf("others %+v, want one, gone %v: %s", others, gone, consequence)
	}
	return others[0]
}

// Somebody of the same user joins the group, with the next slot behind him: he gets
// no connection, the slots get theirs, also when he leaves. He never accepts.
func TestOtherInTheGroup(t *testing.T) {
	sameFiles(t)
	for _, c := range []struct {
		host string
		at   endpoint
	}{
		{"127.0.0.1", endpoint{addr: ipv4Loopback}},
		{"::1", endpoint{addr: netip.IPv6Loopback()}},
		{"", endpoint{addr: netip.IPv6Unspecified(), dual: true}},
	} {
		for _, slots := range []int{1, 3} {
			a := open(t, slots, tcp("http", c.host, 0))
			c.at.port = a.port("http")
			other := joinAt(t, c.at)
			if slots == 1 { // he gets none even before he is seen
				dial(t, joinPort(c.at.addr.String(), c.at.port), 20)
				accept(t, a, 20)
			}
			_, err := a.files(slots)
			check(t, err)
			a.slots = slots + 1
			for only := range a.slots {
				check(t, a.steer(onlySlot(a.slots, only)...))
				dial(t, joinPort(c.at.addr.String(), c.at.port), 20)
				if counts := accept(t, a, 20); counts[only] != 20 {
					t.Errorf("%q, %d slots: %v, all were for slot %d", c.host, slots, counts, only)
				}
			}
			come := wantOther(t, a.Set, false, "beside the app, and gets none of its connections")
			if h := Holders([]Other{come})[come.ID]; h.PID != os.Getpid() || h.UID != uint32(os.Getuid()) {
				t.Errorf("held by %+v", h)
			}
			unix.Close(other)
			if left := wantOther(t, a.Set, true, "no longer listens"); left.ID != come.ID {
				t.Errorf("%+v has come, %+v left", come, left)
			}
			for only := range a.slots {
				check(t, a.steer(onlySlot(a.slots, only)...))
				dial(t, joinPort(c.at.addr.String(), c.at.port), 20)
				if counts := accept(t, a, 20); counts[only] != 20 {
					t.Errorf("%q, %d slots, alone again: %v, all were for slot %d", c.host, slots, counts, only)
				}
			}
			if others := a.Others(); len(others) != 0 {
				t.Errorf("others %+v", others)
			}
		}
	}
}

func onlySlot(slots, only int) []bool {
	accepting := make([]bool, slots)
	accepting[only] = true
	return accepting
}

// Somebody joins while the first slots are bound.
func TestOtherBetweenTheFirst(t *testing.T) {
	for _, addr := range []netip.Addr{ipv4Loopback, netip.IPv6Loopback()} {
		a := open(t, 1, tcp("elsewhere", "127.0.0.1", 0))
		b := &boundAddress{set: a.Set, at: bindAddr{mode: ModeReuseport, end: endpoint{addr: addr}}, listener: tcp("http", addr.String(), 0)}
		b.mode = newMode(b, nil)
		defer b.close()
		check(t, b.open(0))
		other := joinAt(t, b.at.end)
		defer unix.Close(other)
		check(t, b.open(1))
		check(t, b.open(2))
		check(t, b.mode.steer())
		if at := b.mode.(*group).index; len(at) != 4 || at[0] != 0 || at[1] >= 0 || at[2] != 1 || at[3] != 2 {
			t.Errorf("%s: index %v", addr, at)
		}
	}
}

// Outside the group, what is told of is what takes clients.
func TestOtherBeside(t *testing.T) {
	sameFiles(t)
	v4, v6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	for _, c := range []struct {
		network, host string
		at            endpoint
		takes         bool
	}{
		{"tcp", "", endpoint{addr: v4}, true},
		{"tcp", "", endpoint{addr: ipv4Loopback}, true},
		{"tcp", "", endpoint{addr: netip.IPv6Loopback()}, true},
		{"tcp", "", endpoint{addr: v6}, false},
		{"tcp4", "", endpoint{addr: ipv4Loopback}, true},
		{"tcp4", "", endpoint{addr: v6, dual: true}, false},
		{"tcp4", "", endpoint{addr: v6}, false},
		{"tcp6", "", endpoint{addr: netip.IPv6Loopback()}, true},
		{"tcp6", "", endpoint{addr: v4}, false},
		{"tcp", "127.0.0.1", endpoint{addr: v4}, false},
		{"tcp", "127.0.0.1", endpoint{addr: netip.AddrFrom4([4]byte{127, 0, 0, 2})}, false},
	} {
		l := tcp("http", c.host, 0)
		l.Network = c.network
		a := open(t, 2, l)
		c.at.port = a.port("http")
		other := joinAt(t, c.at)
		if c.takes {
			wantOther(t, a.Set, false, "takes the clients of that address")
		} else if _, err := a.RestoreAll(); err != nil || len(a.others) != 0 {
			t.Errorf("%s://%s, %s: %+v, %v", c.network, c.host, c.at, a.others, err)
		}
		unix.Close(other)
	}
}

// What two sets of the app have on one port are no others, nor what workers
// still have when one is released.
func TestOwnAreNoOthers(t *testing.T) {
	sameFiles(t)
	a := open(t, 2, tcp("http", "127.0.0.1", 0))
	files, err := a.files(0)
	check(t, err)
	worker := dup(t, files[0])
	defer unix.Close(worker)
	next, err := a.Open([]Listener{tcp("http", "", a.port("http"))}, 2)
	check(t, err)
	_, err = a.RestoreAll()
	check(t, err)
	a.Release(a.line)
	_, err = a.RestoreAll()
	check(t, err)
	if others := a.Others(); len(others) != 0 {
		t.Errorf("others %+v beside %+v", others, next.Listeners(0))
	}
}
