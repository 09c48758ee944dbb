package sockets

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/ports"
)

// Two configurations in a roll: one listener stays, one goes, one comes.
func TestSetsShare(t *testing.T) {
	sameFiles(t)
	keeper := newStore(t)
	a := openGiven(t, nil, keeper, 3, tcp("http", "127.0.0.1", 0), tcp("old", "127.0.0.1", 0))
	old, port := a.port("old"), a.port("http")
	check(t, a.steer(true, true, true))

	renamed := tcp("web", "127.0.0.1", port)
	renamed.Balance, renamed.Backlog = BalanceSource, 99
	next, err := a.Open([]Listener{tcp("new", "127.0.0.1", 0), renamed}, 3)
	check(t, err)
	b := &testApp{a.Set, next, 3}
	for slot := range 3 {
		before, err := a.files(slot)
		check(t, err)
		after, err := b.files(slot)
		check(t, err)
		if before[0] != after[1] || before[1] == after[0] {
			t.Errorf("slot %d: files %v, then %v", slot, before, after)
		}
		if state, err := inspect(after[1]); err != nil || state.backlog != 99 {
			t.Errorf("backlog %d, %v", state.backlog, err)
		}
	}
	keeper.want(t, "new.0 new.1 new.2 old.0 old.1 old.2 web.0 web.1 web.2")

	// In the middle of the roll each listener has the slots that know it.
	check(t, a.Steer([]*ListenerSet{next, a.line, a.line}))
	arrive := func(port int, want ...int) {
		t.Helper()
		dial(t, loopback(port), 30)
		counts := accept(t, a, 30)
		for slot, some := range want {
			if (counts[slot] > 0) != (some > 0) {
				t.Errorf("port %d: connections by slot %v, want some as in %v", port, counts, want)
				return
			}
		}
	}
	arrive(b.port("new"), 1, 0, 0)
	arrive(old, 0, 1, 1)
	check(t, a.Steer([]*ListenerSet{next, nil, nil}))
	arrive(port, 1, 0, 0)
	check(t, a.Steer([]*ListenerSet{next, next, next}))

	a.Release(a.line)
	a.Release(a.line) // once is enough
	wantRefused(t, loopback(old))
	if _, err := a.files(0); err == nil {
		t.Error("a released set has files")
	}
	keeper.want(t, "new.0 new.1 new.2 web.0 web.1 web.2")
	arrive(b.port("new"), 1, 1, 1)
	dial(t, loopback(port), 10) // by source: one slot
	if counts := accept(t, b, 10); slices.Max(counts) != 10 {
		t.Errorf("by source: %v", counts)
	}
}

// Rolled back: what the failed configuration had changed is as before.
func TestReleaseOfTheLatest(t *testing.T) {
	sameFiles(t)
	keeper := newStore(t)
	a := openGiven(t, nil, keeper, 2, tcp("http", "127.0.0.1", 0))
	files, err := a.files(0)
	check(t, err)
	renamed := tcp("web", "127.0.0.1", a.port("http"))
	renamed.Backlog = 7
	next, err := a.Open([]Listener{renamed, tcp("more", "127.0.0.1", 0)}, 2)
	check(t, err)
	more := next.Listeners(0)[1].Port
	a.Release(next)
	wantRefused(t, loopback(more))
	if state, err := inspect(files[0]); err != nil || state.backlog != 512 || !state.listens {
		t.Errorf("state %+v, %v", state, err)
	}
	keeper.want(t, "http.0 http.1")
	wantEach(t, a, 2)
}

// A listener on another port under the same name: the store has both for a
// while, and the new one's after it.
func TestSetMovesPort(t *testing.T) {
	sameFiles(t)
	keeper := newStore(t)
	a := openGiven(t, nil, keeper, 1, tcp("http", "127.0.0.1", ports.Free(t, 1)))
	next, err := a.Open([]Listener{tcp("http", "127.0.0.1", ports.Free(t, 1))}, 1)
	check(t, err)
	if n := len(keeper.fds["http.0"]); n != 2 {
		t.Errorf("%d sockets stored", n)
	}
	a.Release(a.line)
	if n := len(keeper.fds["http.0"]); n != 1 {
		t.Fatalf("%d sockets stored", n)
	}
	if port, err := boundPort(keeper.fds["http.0"][0]); err != nil || port != next.Listeners(0)[0].Port {
		t.Errorf("stored is port %d, %v", port, err)
	}
}

// A set that cannot be had leaves the Set as it was.
func TestSetFailsWhole(t *testing.T) {
	sameFiles(t)
	keeper := newStore(t)
	held := open(t, 1, tcp("held", "127.0.0.1", 0))
	given, _ := unitSockets(t, "unit", 1, v4(0))
	s, err := New("shop", strangers, given, keeper)
	check(t, err)
	t.Cleanup(s.Close)
	path := socketPath(t)
	ls := []Listener{tcp("unit", "127.0.0.1", portOf(t, given[0])), tcp("free", "127.0.0.1", 0), unixAt(path), tcp("held", "127.0.0.1", held.port("held"))}
	for range 2 {
		before := openFiles()
		_, err := s.Open(ls, 3)
		if heldError := (*HeldError)(nil); !errors.As(err, &heldError) {
			t.Fatalf("error %v", err)
		}
		wantOpen(t, before)
		wantFiles(t, path)
		wantNotices(t, s)
		keeper.want(t, "")
	}
	line, err := s.Open(ls[:3], 3)
	check(t, err)
	files, err := line.Files(0)
	check(t, err)
	if files[0] != given[0].FD {
		t.Error("the passed socket is not used")
	}
	if _, err := s.Open(ls, 3); err == nil {
		t.Error("the port is held still")
	}
	again, err := line.Files(0)
	check(t, err)
	if !slices.Equal(files, again) {
		t.Errorf("files %v, were %v", again, files)
	}
}

// Another address on the same port stands beside the one that goes.
func TestSetWidens(t *testing.T) {
	sameFiles(t)
	a := open(t, 2, tcp("http", "127.0.0.1", 0))
	port := a.port("http")
	next, err := a.Open([]Listener{tcp("http", "", port)}, 2)
	check(t, err)
	a.Release(a.line)
	b := &testApp{a.Set, next, 2}
	wantEach(t, b, 2)
}

func TestSetRefusesAnotherMode(t *testing.T) {
	sameFiles(t)
	a := open(t, 2, tcp("http", "127.0.0.1", 0))
	for _, mode := range []string{ModeShared, ModeEach} {
		_, err := a.Open([]Listener{inMode(mode, tcp("http", "", a.port("http")))}, 2)
		wantError(t, err, sprint(`in mode %q while listener "http" serves it in mode "reuseport": stop the app and start it again`, mode))
	}
}

// O_NONBLOCK belongs to the socket, which workers have that know it otherwise.
func TestSetRefusesAnotherNonblocking(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	base := ports.Free(t, 2)
	ls := []Listener{tcp("http", "127.0.0.1", 0), inMode(ModeShared, tcp("admin", "127.0.0.1", 0)), inMode(ModeEach, tcp("own", "127.0.0.1", base)), unixAt(path)}
	a := open(t, 2, ls...)
	for i := range ls {
		changed := slices.Clone(ls)
		changed[i].Nonblocking = false
		_, err := a.Open(changed, 2)
		wantError(t, err, "cannot listen on "+ls[i].String()+" with nonblocking = false", "can't change while the app runs: set it back, or stop the app and run it again")
	}
	_, err := a.Open(ls, 2)
	check(t, err)
}

// A socket unit's socket is kept when its listener goes, for one that comes.
func TestReleasedToSystemd(t *testing.T) {
	sameFiles(t)
	given, held := unitSockets(t, "http", 2, v4(0))
	port := portOf(t, given[0])
	other := tcp("other", "127.0.0.1", 0)
	a := openGiven(t, given, nil, 3, tcp("http", "127.0.0.1", port), other)
	a.Notices()
	without, err := a.Open([]Listener{other}, 3)
	check(t, err)
	a.Release(a.line)
	wantNotices(t, a.Set, sprint("listener http is gone: systemd goes on listening on tcp4://127.0.0.1:%d: stop its socket unit", port),
		"listener http is gone")
	if state, err := inspect(held[0]); err != nil || !state.listens {
		t.Errorf("state %+v, %v", state, err)
	}
	with, err := a.Open([]Listener{tcp("http", "127.0.0.1", port), other}, 3)
	check(t, err)
	a.Release(without)
	b := &testApp{a.Set, with, 3}
	files, err := b.files(1)
	check(t, err)
	if files[0] != given[1].FD {
		t.Errorf("file %d, passed was %d", files[0], given[1].FD)
	}
	wantEach(t, b, 3)
}

// A worker has shut the only socket down, and a slot is opened before that is
// mended, or after the worker has mended it itself.
func TestGrowBesideOneThatWasShutDown(t *testing.T) {
	sameFiles(t)
	for _, again := range []bool{false, true} {
		a := open(t, 1, tcp("http", "127.0.0.1", 0))
		files, err := a.files(0)
		check(t, err)
		check(t, unix.Shutdown(files[0], unix.SHUT_RDWR))
		check(t, a.steer(true))
		if again {
			check(t, unix.Listen(files[0], 512))
		}
		_, err = a.files(1)
		check(t, err)
		if changed, err := a.RestoreAll(); again != (len(changed) == 0) || err != nil {
			t.Errorf("restored %v, %v", changed, err)
		}
		a.slots = 2
		wantEach(t, a, 2)
	}
}

func TestGrow(t *testing.T) {
	sameFiles(t)
	keeper := newStore(t)
	a := openGiven(t, nil, keeper, 1, tcp("http", "", 0))
	check(t, a.steer(true))
	for slot := 1; slot < 8; slot++ {
		_, err := a.files(slot)
		check(t, err)
	}
	a.slots = 8
	wantArrivals(t, a, []int{20, 0, 0, 0, 0, 0, 0, 0})
	wantEach(t, a, 8)
	for slot := 7; slot > 0; slot-- {
		check(t, a.steer(slices.Repeat([]bool{true}, slot)...))
		check(t, a.CloseSlot(slot))
	}
	wantArrivals(t, a, []int{20, 0, 0, 0, 0, 0, 0, 0})
	keeper.want(t, "http.0")
	if _, err := a.files(maxSlots); err == nil {
		t.Error("a slot too many")
	}
}

// Slots close, come back, are shut down and restored, and others join the port and
// leave it, in any order: each gets its own connections, as the order in the kernel
// is followed.
func TestOrderIsFollowed(t *testing.T) {
	sameFiles(t)
	const slots = 5
	keeper := newStore(t)
	random := rand.New(rand.NewPCG(5, 6))
	a := openGiven(t, nil, keeper, slots, tcp("http", "127.0.0.1", 0))
	port := a.port("http")
	open := slices.Repeat([]bool{true}, slots)
	var others []int
	for step := range 90 {
		slot := random.IntN(slots)
		files, err := a.files(slot)
		check(t, err)
		open[slot] = true
		switch random.IntN(6) {
		case 0, 1:
			if slices.Index(open, true) != slot || slices.Contains(open[slot+1:], true) {
				check(t, a.CloseSlot(slot))
				open[slot] = false
			}
		case 2:
			check(t, unix.Shutdown(files[0], unix.SHUT_RDWR))
			_, err := a.RestoreAll()
			check(t, err)
		case 3: // a killed master
			if random.IntN(3) == 0 {
				a.Close()
				a = openGiven(t, keeper.passed(), keeper, slots, tcp("http", "127.0.0.1", port))
				open = slices.Repeat([]bool{true}, slots)
			}
		case 4:
			others = append(others, joinPort4(t, port))
		case 5:
			if len(others) > 0 {
				at := random.IntN(len(others))
				unix.Close(others[at])
				others = slices.Delete(others, at, at+1)
				_, err := a.RestoreAll()
				check(t, err)
			}
		}
		for only := range slots {
			if open[only] {
				wantOnly(t, a, only)
			}
		}
		if t.Failed() {
			t.Fatalf("in step %d", step)
		}
	}
	for _, fd := range others {
		unix.Close(fd)
	}
}
