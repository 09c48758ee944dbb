package supervisor

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/sockets"
)

// taking is an executor whose worker has taken a socket on which a connection waits.
func taking(t *testing.T) (e *executor, w *worker, inode uint32) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	set, err := sockets.New("shop", func(sockets.Holder) bool { return false }, nil, nil)
	check(err)
	t.Cleanup(set.Close)
	l, err := set.Open([]Listener{{Name: "web", Network: "tcp4", Host: "127.0.0.1", Mode: sockets.ModeReuseport, Balance: sockets.BalanceHash, Backlog: 8}}, 1)
	check(err)
	w = &worker{id: pool.ID{Generation: 1}, release: &release{listeners: l}, taken: awaited{}}
	e = &executor{sockets: set, workers: map[pool.ID]*worker{w.id: w}, log: slog.New(slog.DiscardHandler)}
	own, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(err)
	defer unix.Close(own)
	port := l.Listeners(0)[0].Port
	_, err = l.Take(0, 0, sockets.Program{
		Network: "tcp", Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)), Socket: own,
	}, w.id)
	check(err)
	c, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), time.Minute)
	check(err)
	t.Cleanup(func() { c.Close() })
	inodes := l.Inodes(0)
	if len(inodes) != 1 || !slices.Equal(set.Awaited(w.id), []uint32{uint32(inodes[0])}) {
		t.Fatalf("sockets %v, connections wait in %v", inodes, set.Awaited(w.id))
	}
	return e, w, uint32(inodes[0])
}

// What a dead worker has left may bind after its exit; nobody accepts there when it is gone.
func TestReleasedTakesNothing(t *testing.T) {
	e, w, _ := taking(t)
	e.released(w.id)
	if waits := e.sockets.Awaited(w.id); len(waits) > 0 {
		t.Errorf("connections wait for it in %v", waits)
	}
}

// A worker that has closed a socket, and taken it again by the time that this is known, has it.
func TestTakenAgain(t *testing.T) {
	e, w, inode := taking(t)
	before := &takenAt{}
	w.taken[inode] = before
	found := closedFound{closed: map[*worker]awaited{w: {inode: before}}}
	w.taken[inode] = &takenAt{}
	e.noteClosed(found, time.Now())
	if waits := e.sockets.Awaited(w.id); len(waits) != 1 {
		t.Error("it has it no more")
	}
	w.taken[inode] = before
	e.noteClosed(found, time.Now())
	if waits := e.sockets.Awaited(w.id); len(waits) > 0 {
		t.Errorf("connections wait for it in %v", waits)
	}
}
