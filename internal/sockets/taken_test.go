package sockets

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// learnOwn is an app of two slots whose program in slot 0, "first", has a port.
func learnOwn(t *testing.T) (a *testApp, p Program, address string) {
	t.Helper()
	port := freeRange(t, 1)
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
	if n, known := a.OwnQueue(1, "other"); n != 0 || known {
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
		gone, err := a.Passed(0)
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
		gone, err := a.Passed(0)
		check(t, err)
		if len(gone) != 1 {
			t.Errorf("gone %v", gone)
		}
	})
}
