package sockets

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/ports"
)

// learnOwn is an app of two slots whose program in slot 0, "first", has a port.
func learnOwn(t *testing.T) (a *testApp, p Program, address string) {
	t.Helper()
	port := ports.Free(t, 1)
	a = open(t, 2)
	p = bound(t, 0, os.Getuid(), binding("127.0.0.1", port, false, false))
	_, err := a.line.Learn(2, p)
	check(t, err)
	a.takeBy(t, 0, p, "first")
	check(t, unix.Dup3(a.bound[0].user(0).fd, p.Socket, unix.O_CLOEXEC))
	check(t, a.steer(true, true))
	return a, p, loopback(port)
}

func (a *testApp) takeBy(t *testing.T, slot int, p Program, by string) {
	t.Helper()
	listener, ok := a.line.Match(slot, p)
	if !ok {
		t.Fatalf("no listener is at %+v", p)
	}
	p.Socket = a.bound[0].user(slot).fd // one with its options
	_, err := a.line.Take(slot, listener, p, by)
	check(t, err)
}

func (a *testApp) wantAt(t *testing.T, address string, slot int) {
	t.Helper()
	dial(t, address, 10)
	if counts := accept(t, a, 10); counts[slot] != 10 {
		t.Errorf("connections %v, want all in slot %d", counts, slot)
	}
}

// resets has connections wait while f runs, and fails unless they are reset then.
func resets(t *testing.T, address string, f func()) {
	t.Helper()
	waiting := dial(t, address, 3)
	f()
	for _, c := range waiting {
		wantReset(t, c)
	}
}

func TestTakers(t *testing.T) {
	sameFiles(t)
	a, p, address := learnOwn(t)
	a.wantAt(t, address, 0)
	if n, known := a.OwnQueue(1, a.line, "other"); n != 0 || known {
		t.Errorf("queue of one that has not taken it: %d, %v", n, known)
	}
	// It ends: its slot's next program may take it.
	check(t, a.Ended("first"))
	check(t, a.steer(false, true))
	a.wantAt(t, address, 0)
	a.takeBy(t, 0, p, "next")
	a.wantAt(t, address, 0)
	check(t, a.steer(true, true))
	a.wantAt(t, address, 0)
	// Or another slot's takes it: what waits in the first one's queue is reset.
	check(t, a.Ended("next"))
	resets(t, address, func() {
		a.takeBy(t, 1, p, "other")
		gone, err := a.Passed(0, a.line)
		check(t, err)
		if len(gone) > 0 {
			t.Errorf("gone %v", gone)
		}
	})
	a.wantAt(t, address, 1)
	// A slot's two programs: one of them closes it.
	a.takeBy(t, 1, p, "second")
	dial(t, address, 1)
	for _, by := range []any{"other", "second"} {
		if got, want := a.Awaited(by), uint32(inode(a.bound[0].user(1).fd)); !slices.Equal(got, []uint32{want}) {
			t.Errorf("%s: awaited %v, want %d", by, got, want)
		}
	}
	check(t, a.Ended("other"))
	if counts := accept(t, a, 1); counts[1] != 1 {
		t.Errorf("connections %v, want one in slot 1", counts)
	}
	resets(t, address, func() {
		gone, err := a.Closed("second", a.Awaited("second")[0])
		check(t, err)
		if len(gone) != 1 || gone[0].Port != int(p.Address.Port()) || len(a.bound) != 0 {
			t.Errorf("gone %v, bound %v", gone, a.bound)
		}
	})
}

// A listener goes when its slot's next program has not taken it, and no other has.
func TestNobodyTakesItAgain(t *testing.T) {
	sameFiles(t)
	a, _, address := learnOwn(t)
	check(t, a.Ended("first"))
	resets(t, address, func() {
		gone, err := a.Passed(0, a.line)
		check(t, err)
		if len(gone) != 1 {
			t.Errorf("gone %v", gone)
		}
	})
}

// In a roll the new release's program has taken a listener, and the old one's has ended: the
// old release keeps it, for a rollback, until nobody has it.
func TestTakersOfTwoSets(t *testing.T) {
	sameFiles(t)
	a, p, address := learnOwn(t)
	old := a.line
	next, err := a.Open(old.Listeners(0), 2)
	check(t, err)
	a.line = next
	a.takeBy(t, 0, p, "next")
	check(t, a.steer(true, true))
	check(t, a.Ended("first"))
	gone, err := a.Passed(0, a.line)
	check(t, err)
	if len(gone) > 0 || len(old.served) != 1 || len(next.served) != 1 {
		t.Errorf("gone %v, the old set has %v, the new one %v", gone, old.Listeners(0), next.Listeners(0))
	}
	a.wantAt(t, address, 0)
	check(t, a.Ended("next"))
	gone, err = a.Passed(0, a.line)
	check(t, err)
	if len(gone) != 1 || len(old.served)+len(next.served)+len(a.bound) != 0 {
		t.Errorf("gone %v, the old set has %v, the new one %v", gone, old.Listeners(0), next.Listeners(0))
	}
}

// A configuration that declares what was learned has it, whoever listens there.
func TestTakersOfDeclared(t *testing.T) {
	sameFiles(t)
	a, _, address := learnOwn(t)
	declared := a.line.Listeners(0)
	declared[0].Learned = false
	next, err := a.Open(declared, 2)
	check(t, err)
	a.line = next
	check(t, a.Ended("first"))
	gone, err := a.Passed(0, a.line)
	check(t, err)
	if len(gone) > 0 {
		t.Errorf("gone %v", gone)
	}
	check(t, a.steer(false, true))
	a.wantAt(t, address, 1)
}

// A program of one slot asks for both families in one socket, another for IPv4: that ends
// with it alone.
func TestTakersOfFamilies(t *testing.T) {
	sameFiles(t)
	port := ports.Free(t, 1)
	a := open(t, 2)
	dual, v4 := bound(t, 0, os.Getuid(), binding("::", port, true, false)), askingV4(t, port)
	_, err := a.line.Learn(2, dual)
	check(t, err)
	a.takeBy(t, 0, dual, "dual")
	check(t, unix.Dup3(a.bound[0].user(0).fd, dual.Socket, unix.O_CLOEXEC))
	a.takeBy(t, 1, v4, "v4")
	check(t, a.steer(true, true))
	a.wantAt(t, loopback(port), 1)
	a.wantAt(t, v6loopback(port), 0)
	check(t, a.Ended("v4"))
	resets(t, loopback(port), func() {
		gone, err := a.Passed(1, a.line)
		check(t, err)
		if len(gone) > 0 {
			t.Errorf("gone %v", gone)
		}
	})
	a.wantAt(t, loopback(port), 0)
	a.wantAt(t, v6loopback(port), 0)
}

// The options of a socket that several slots share stay while one of their programs has it.
func TestTakersKeepOptions(t *testing.T) {
	sameFiles(t)
	a := open(t, 2)
	p := bound(t, 0, os.Getuid(), Program{Network: "unix", Path: socketPath(t)})
	p.Nonblocking = true
	_, err := a.line.Learn(2, p)
	check(t, err)
	for slot := range 2 {
		listener, _ := a.line.Match(slot, p)
		fd, err := a.line.Take(slot, listener, p, slot)
		check(t, err)
		check(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, 3))
	}
	for slot, want := range []string{"", "SO_PRIORITY"} {
		check(t, a.Ended(slot))
		if changed, err := a.Reset(slot); strings.Join(changed, " ") != want || err != nil {
			t.Errorf("slot %d: set back %q, %v, want %q", slot, changed, err, want)
		}
	}
}

// Where programs take a declared listener's sockets, those that have not get no connections;
// where none does, all may have been passed theirs.
func TestTakersOfSomeSlots(t *testing.T) {
	sameFiles(t)
	a := open(t, 3, tcp("own", "127.0.0.1", 0))
	address := loopback(a.port("own"))
	check(t, a.steer(true, true, true))
	waiting := dial(t, address, 60) // nobody knows yet whose they are
	p := asking(t, "127.0.0.1", a.port("own"), false, false)
	a.takeBy(t, 1, p, "first")
	if counts := queues(t, a); slices.Contains(counts, 0) {
		t.Fatalf("connections wait in %v", counts)
	}
	if n, known := a.OwnQueue(0, a.line, "other"); n != 0 || known {
		t.Errorf("queue of one that has not taken it: %d, %v", n, known)
	}
	for slot := range 3 {
		_, err := a.Passed(slot, a.line)
		check(t, err)
	}
	if counts := queues(t, a); counts[0]+counts[2] > 0 || counts[1] == 0 {
		t.Errorf("connections wait in %v", counts)
	}
	accept(t, a, queues(t, a)[1])
	for _, c := range waiting {
		c.Close()
	}
	a.wantAt(t, address, 1)

	// The next release's program takes what it is passed.
	next, err := a.Open(a.listeners(), 3)
	check(t, err)
	check(t, a.Steer([]*ListenerSet{next, a.line, next}))
	dial(t, address, 60)
	if counts := accept(t, a, 60); slices.Contains(counts, 0) {
		t.Errorf("connections in a roll %v", counts)
	}
	check(t, a.Ended("first"))
	_, err = a.Passed(1, next)
	check(t, err)
	check(t, a.Steer([]*ListenerSet{next, next, next}))
	waiting = dial(t, address, 60)
	for slot := range 3 {
		_, err := a.Passed(slot, next)
		check(t, err)
	}
	if counts := accept(t, a, len(waiting)); slices.Contains(counts, 0) {
		t.Errorf("connections %v", counts)
	}
}

// queues counts what waits in each slot.
func queues(t *testing.T, a *testApp) (counts []int) {
	t.Helper()
	for slot := range a.slots {
		n, _ := a.Queue(slot)
		counts = append(counts, n)
	}
	return counts
}

// A family of a declared listener that a program has taken, and none has any more, ends
// where they have another.
func TestTakersForsakeAFamily(t *testing.T) {
	sameFiles(t)
	a := open(t, 2, tcp("own", "", 0))
	port := a.port("own")
	dual, v4 := askingDual(t, port), askingV4(t, port)
	a.takeBy(t, 0, v4, "v4")
	a.takeBy(t, 1, dual, "dual")
	check(t, a.steer(true, true))
	a.line.Settle()
	a.wantAt(t, loopback(port), 0)
	a.wantAt(t, v6loopback(port), 1)
	check(t, a.Ended("v4"))
	resets(t, loopback(port), func() {
		_, err := a.Passed(0, a.line)
		check(t, err)
	})
	a.wantAt(t, loopback(port), 1)
	a.wantAt(t, v6loopback(port), 1)
	files, err := a.files(1)
	check(t, err)
	wantBound(t, files[0], "::", port, true)
	check(t, a.Ended("dual")) // the last one stays
	_, err = a.Passed(1, a.line)
	check(t, err)
	dial(t, v6loopback(port), 1)
	accept(t, a, 1)
}

// A killed master's learned listener ends where no worker of its successor's has it.
func TestNobodyTakesWhatWasStored(t *testing.T) {
	keeper := newStore(t)
	p := bound(t, 0, os.Getuid(), binding("127.0.0.1", ports.Free(t, 1), false, false))
	a := openGiven(t, nil, keeper, 2)
	_, err := a.line.Learn(2, p)
	check(t, err)
	replace(t, a, p)
	a.Close()
	s, err := New("shop", strangers, keeper.passed(), keeper)
	check(t, err)
	t.Cleanup(s.Close)
	line, err := s.Open(s.Implied(), 2)
	check(t, err)
	for slot, want := range []int{0, 1} {
		gone, err := s.Passed(slot, line)
		check(t, err)
		if len(gone) != want {
			t.Errorf("slot %d: gone %v", slot, gone)
		}
	}
}
