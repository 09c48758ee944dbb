package sockets

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/ports"
)

// acceptAt accepts a connection of a slot's i-th listener and keeps it until the test ends.
func acceptAt(t *testing.T, s *testApp, slot, i int) (fd int) {
	t.Helper()
	files, err := s.files(slot)
	check(t, err)
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(files[i]), Events: unix.POLLIN}}, int(waitTimeout.Milliseconds()))
	check(t, err)
	fd, _, err = unix.Accept4(files[i], unix.SOCK_CLOEXEC)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func inodesOf(all []Connection) (inodes []uint64) {
	for _, c := range all {
		inodes = append(inodes, uint64(c.Inode))
	}
	return slices.Sorted(slices.Values(inodes))
}

func TestConnections(t *testing.T) {
	sameFiles(t)
	path := t.TempDir() + "/s"
	each := tcp("each", "127.0.0.1", 0)
	each.Mode = ModeEach
	other := open(t, 1, tcp("other", "127.0.0.1", 0), unixAt(path+"2"))
	dial(t, loopback(other.port("other")), 1)
	acceptAt(t, other, 0, 0)
	each.Port = ports.Free(t, 3)
	s := open(t, 3, tcp("one", "", 0), each, unixAt(path))
	check(t, s.steer(true, false, false))
	counting := s.Counting()
	seen := func() []uint64 {
		all, err := counting.Connections()
		check(t, err)
		return inodesOf(all)
	}
	dial(t, loopback(s.port("one")), 2)
	if all := seen(); len(all) != 0 {
		t.Errorf("before one is accepted: %d", all)
	}
	fds := []int{acceptAt(t, s, 0, 0)}
	for slot := range 3 {
		dial(t, loopback(each.Port+slot), 1)
		fds = append(fds, acceptAt(t, s, slot, 1))
	}
	for range 2 {
		conn, err := net.Dial("unix", path)
		check(t, err)
		t.Cleanup(func() { conn.Close() })
	}
	fds = append(fds, acceptAt(t, s, 0, 2))
	check(t, unix.Shutdown(fds[1], unix.SHUT_WR))
	var want []uint64
	for _, fd := range fds {
		want = append(want, inode(fd))
	}
	if got := seen(); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("%d, want %d", got, want)
	}
	unix.Close(fds[0]) // again in a Cleanup, where it fails
	fds[0] = -1
	if got := seen(); len(got) != len(want)-1 || slices.Contains(got, want[0]) {
		t.Errorf("%d, without %d", got, want[0])
	}
	if all, err := (Counting{}).Connections(); err != nil || len(all) > 0 {
		t.Errorf("of nothing: %v, %v", all, err)
	}
}

// The filter passes what it should, and the kernel accepts it, whatever the ports.
func TestPortFilter(t *testing.T) {
	s := open(t, 1, tcp("one", "127.0.0.1", 0))
	port := s.port("one")
	dial(t, loopback(port), 1)
	acceptAt(t, s, 0, 0)
	odd := make([]int, 1024)
	for i := range odd {
		odd[i] = (1 + 2*i + 4096) &^ 1
	}
	for _, c := range []struct {
		ports []int
		want  int
	}{
		{[]int{port}, 1},
		{[]int{port, port + 2}, 1},
		{[]int{port - 2, port}, 1},
		{[]int{port - 1, port, port + 1}, 1},
		{[]int{1, 2, 3, port - 1, port, 65535}, 1},
		{[]int{port - 1, port + 1}, 0},
		{[]int{1, 65535}, 0},
		{slices.DeleteFunc(slices.Clone(odd), func(p int) bool { return p == port }), 0},
		{slices.Compact(slices.Sorted(slices.Values(append(odd, port)))), 1},
	} {
		all, err := Counting{ports: c.ports}.Connections()
		if err != nil || len(all) != c.want {
			t.Errorf("%d ports from %d on: %v, %v, want %d", len(c.ports), c.ports[0], all, err, c.want)
		}
	}
}

func TestMarks(t *testing.T) {
	const mask, foreign = 0xff00, 0x30000
	s := open(t, 1, tcp("one", "127.0.0.1", 0))
	files, err := s.files(0)
	check(t, err)
	check(t, unix.SetsockoptInt(files[0], unix.SOL_SOCKET, unix.SO_MARK, foreign)) // a bit that is not forkd's
	check(t, s.MarkBy(mask))
	check(t, s.bound[0].openAll(3))
	s.slots = 3
	want := map[uint32]uint32{}
	for slot := range 3 {
		accepts := make([]bool, 3)
		accepts[slot] = true
		check(t, s.steer(accepts...))
		dial(t, loopback(s.port("one")), 1)
		want[uint32(inode(acceptAt(t, s, slot, 0)))] = Mark(mask, slot)
		_, err := s.Reset(slot) // as after a worker
		check(t, err)
		if changed, err := s.Reset(slot); err != nil || len(changed) > 0 {
			t.Errorf("slot %d: %v was set back, %v", slot, changed, err)
		}
	}
	all, err := s.Counting().Connections()
	check(t, err)
	for _, c := range all {
		if c.Mark&mask != want[c.Inode] {
			t.Errorf("%#x, want %#x", c.Mark, want[c.Inode])
		}
	}
	if len(all) != 3 || all[0].Mark == all[1].Mark {
		t.Errorf("%+v", all)
	}
}

func TestMarksTellSlotsApart(t *testing.T) {
	for mask, slots := range map[uint32]int{0: 0, 1: 1, 0x30: 3, 0xff00: 255, 0xffff: 65535} {
		seen := map[uint32]bool{}
		for slot := range 70000 {
			m := Mark(mask, slot)
			if slot >= slots != (m == 0) || m != 0 && (m&^mask != 0 || seen[m]) {
				t.Fatalf("%#x: slot %d has %#x", mask, slot, m)
			}
			seen[m] = true
		}
	}
	if m := Mark(0xffffffff, 5); m != 6 {
		t.Error(m)
	}
}

func TestMarksNeedPrivilege(t *testing.T) { runHelper(t, helperCommand(t, "unmarked")) }

func helpUnmarked() error {
	if err := becomeNobody(); err != nil {
		return err
	}
	s, err := openApp([]Listener{tcp("one", "127.0.0.1", 0)}, 1)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.MarkBy(1); err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		return fmt.Errorf("marks: %w", err)
	}
	conn, err := net.Dial("tcp", loopback(s.port("one")))
	if err != nil {
		return err
	}
	defer conn.Close()
	files, err := s.files(0)
	if err != nil {
		return err
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(files[0]), Events: unix.POLLIN}}, int(time.Minute.Milliseconds())); err != nil {
		return err
	}
	fd, _, err := unix.Accept(files[0])
	if err != nil {
		return err
	}
	all, err := s.Counting().Connections()
	if err != nil || len(all) != 1 || uint64(all[0].Inode) != inode(fd) {
		return fmt.Errorf("%v of %d, %w", all, inode(fd), err)
	}
	return nil
}
