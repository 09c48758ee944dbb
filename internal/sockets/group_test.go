package sockets

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/ports"
)

// damage has a worker of the slot drop all its connections for good. It returns the
// worker's copy.
func damage(t *testing.T, a *testApp, slot int) (worker int) {
	t.Helper()
	files, err := a.files(slot)
	check(t, err)
	check(t, setProgram(files[0], unix.SO_ATTACH_FILTER, []bpf.Instruction{bpf.RetConstant{Val: 0}}))
	check(t, unix.SetsockoptInt(files[0], unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1))
	return dup(t, files[0])
}

// A slot whose socket cannot be mended gets another in a roll: the successor has
// it, and with it the slot's connections when it serves. The old worker's copy
// then stands in the group for as long as it lives.
func TestReplacedInARoll(t *testing.T) {
	sameFiles(t)
	keeper := newStore(t)
	l := tcp("http", "127.0.0.1", 0)
	a := openGiven(t, nil, keeper, 3, l)
	check(t, a.steer(true, true, true))
	worker := damage(t, a, 1)
	before, err := a.files(2)
	check(t, err)
	l.Port = a.port("http")
	next, err := a.Open([]Listener{l}, 3)
	check(t, err)
	b := &testApp{a.Set, next, 3}

	var files []int
	for slot := range 3 {
		got, err := b.files(slot)
		check(t, err)
		files = append(files, got[0])
	}
	if isLocked(files[1]) || files[2] != before[0] {
		t.Errorf("files %v, slot 2 had %v", files, before)
	}
	again, err := b.files(1)
	check(t, err)
	if again[0] != files[1] {
		t.Errorf("slot 1 got %d, and %d", files[1], again[0])
	}
	_, err = b.RestoreAll()
	check(t, err)
	check(t, b.Steer([]*ListenerSet{next, a.line, a.line}))
	wantSlot := func(only int) {
		t.Helper()
		serving := make([]*ListenerSet, 3)
		serving[only] = next
		check(t, b.Steer(serving))
		want := make([]int, 3)
		want[only] = 20
		wantArrivals(t, b, want)
	}
	wantSlot(2)
	wantSlot(1)
	wantSlot(0)
	b.Release(a.line)
	if got := len(keeper.fds["http.1"]); got != 1 {
		t.Errorf("%d sockets of slot 1 are stored", got)
	}
	wantSlot(1)
	unix.Close(worker)
	_, err = b.RestoreAll()
	check(t, err)
	for only := range 3 {
		wantSlot(only)
	}
	if others := a.Others(); len(others) != 0 {
		t.Errorf("others %+v", others)
	}
}

// A roll that fails: the slot keeps its socket, and its worker.
func TestReplacedInVain(t *testing.T) {
	sameFiles(t)
	l := tcp("http", "127.0.0.1", 0)
	a := open(t, 3, l)
	check(t, a.steer(true, true, true))
	files, err := a.files(1)
	check(t, err)
	check(t, unix.SetsockoptInt(files[0], unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1))
	l.Port = a.port("http")
	next, err := a.Open([]Listener{l}, 3)
	check(t, err)
	fresh, err := next.Files(1)
	check(t, err)
	worker := dup(t, fresh[0])
	_, err = a.files(3) // behind it in the group
	check(t, err)
	a.slots = 4
	a.Release(next)
	wantEach(t, a, 4)
	unix.Close(worker)
	_, err = a.RestoreAll()
	check(t, err)
	wantEach(t, a, 4)
	if after, err := a.files(1); err != nil || !isLocked(files[0]) {
		t.Errorf("files %v, were %v, %v", after, files, err)
	}
}

// Nobody has the slot's socket: it is replaced at once.
func TestReplacedWhenVacant(t *testing.T) {
	sameFiles(t)
	for _, mode := range []string{ModeReuseport, ModeEach} {
		l := inMode(mode, tcp("http", "127.0.0.1", ports.Free(t, 3)))
		a := open(t, 3, l)
		check(t, a.steer(true, true, true))
		unix.Close(damage(t, a, 1))
		if changed, err := a.Reset(1); !slices.Contains(changed, "SO_LOCK_FILTER") || err != nil {
			t.Errorf("%s: set back %v, %v", mode, changed, err)
		}
		files, err := a.files(1)
		check(t, err)
		if isLocked(files[0]) {
			t.Errorf("%s: it is locked still", mode)
		}
		if mode == ModeReuseport {
			wantEach(t, a, 3)
		}
	}
	for _, l := range []Listener{inMode(ModeShared, tcp("http", "127.0.0.1", 0)), unixAt(socketPath(t))} {
		a := open(t, 1, l)
		unix.Close(damage(t, a, 0))
		if changed, err := a.Reset(0); len(changed) != 0 || err != nil {
			t.Errorf("%s: set back %v, %v", l, changed, err)
		}
	}
}

// An option that this user cannot set back costs the slot its socket.
func TestStuckOption(t *testing.T) {
	runHelper(t, helperCommand(t, "stuck"))
}

func helpStuck() error {
	if err := becomeNobody(); err != nil {
		return err
	}
	a, err := openApp([]Listener{tcp("http", "127.0.0.1", 0), inMode(ModeShared, tcp("all", "127.0.0.1", 0))}, 1)
	if err != nil {
		return err
	}
	defer a.Close()
	files, err := a.files(0)
	if err != nil {
		return err
	}
	for _, fd := range files {
		if err := unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo"); err != nil {
			return os.NewSyscallError("setsockopt SO_BINDTODEVICE", err)
		}
	}
	if changed, err := a.Reset(0); !slices.Equal(changed, []string{"SO_BINDTODEVICE"}) || err != nil {
		return fmt.Errorf("set back %v, %w", changed, err)
	}
	damaged := a.Damaged()
	if len(damaged) != 1 || damaged[0] != (Restored{-1, "a worker has set SO_BINDTODEVICE, which cannot be set back: stop the app and run it again"}) {
		return fmt.Errorf("damaged %+v", damaged)
	}
	files, err = a.files(0)
	if err != nil {
		return err
	}
	if nic, err := unix.GetsockoptInt(files[0], unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX); nic != 0 || err != nil {
		return fmt.Errorf("bound to interface %d, %w", nic, err)
	}
	return nil
}
