package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// picker runs choose in x/net's own machine, with the hash as the packet.
func picker(t *testing.T, members groupIndex, accepting []bool) func(hash uint32) uint32 {
	t.Helper()
	program := append([]bpf.Instruction{bpf.LoadAbsolute{Off: 0, Size: 4}}, choose(members, accepting)...)
	vm, err := bpf.NewVM(program)
	check(t, err)
	return func(hash uint32) uint32 {
		index, err := vm.Run(binary.BigEndian.AppendUint32(nil, hash))
		check(t, err)
		return uint32(index)
	}
}

// Any members in any order, any of them accepting: every hash ends at a slot
// that accepts, and stays at its first choice where that one does.
func TestChoose(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		slots := 1 + random.IntN(70)
		members := groupIndex(random.Perm(slots)[:1+random.IntN(slots)])
		if random.IntN(3) == 0 {
			slices.Sort(members)
		}
		accepting := make([]bool, slots)
		for _, slot := range members {
			accepting[slot] = random.IntN(4) > 0
		}
		accepting[members[random.IntN(len(members))]] = true
		pick := picker(t, members, accepting)
		for range 300 {
			hash := random.Uint32()
			index := pick(hash)
			if int(index) >= len(members) {
				t.Fatalf("%v, accepting %v: hash %d gives %d", members, accepting, hash, index)
			}
			slot, firstChoice := members[index], int(hash%uint32(slots))
			if !accepting[slot] || accepting[firstChoice] && slot != firstChoice {
				t.Fatalf("%v, accepting %v: hash %d gives slot %d, first choice %d", members, accepting, hash, slot, firstChoice)
			}
		}
	}
}

// The clients of a slot that goes spread over all others.
func TestSecondChoiceSpreads(t *testing.T) {
	accepting := []bool{true, true, false, true, true}
	pick := picker(t, groupIndex{0, 1, 2, 3, 4}, accepting)
	counts := make([]int, 5)
	random := rand.New(rand.NewPCG(3, 4))
	for range 4000 {
		counts[pick(random.Uint32()/5*5+2)]++
	}
	for slot, n := range counts {
		if accepting[slot] && (n < 850 || n > 1150) {
			t.Errorf("slot %d got %d of 4000, 1000 are its share", slot, n)
		}
	}
}

// The kernel takes the longest program there can be.
func TestLongestProgram(t *testing.T) {
	s := open(t, 1, tcp("http", "127.0.0.1", 0))
	fds, err := s.files(0)
	check(t, err)
	scattered := make(groupIndex, 0, maxSlots) // no two neighbours alike
	for i := range maxSlots {
		scattered = append(scattered, (i*389)%maxSlots)
	}
	for name, leaves := range map[string]func(slot int) bool{
		"one":         func(slot int) bool { return slot == 77 },
		"every other": func(slot int) bool { return slot%2 == 0 },
		"every third": func(slot int) bool { return slot%3 == 0 },
	} {
		accepting := make([]bool, maxSlots)
		for slot := range accepting {
			accepting[slot] = !leaves(slot)
		}
		long := program(BalanceHash, 1, scattered, accepting)
		if err := setProgram(fds[0], unix.SO_ATTACH_REUSEPORT_CBPF, long); err != nil {
			t.Errorf("%s away, %d instructions: %v", name, len(long), err)
		}
	}
	all := slices.Repeat([]bool{true}, maxSlots)
	inOrder := groupIndex(slices.Sorted(slices.Values(scattered)))
	if n := len(program(BalanceHash, 1, inOrder, all)); n > 60 {
		t.Errorf("the usual program has %d instructions", n)
	}
}

func TestSteer(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		s := open(t, 4, tcp("http", host, 0))
		for away := range 4 {
			accepting := []bool{true, true, true, true}
			accepting[away] = false
			check(t, s.steer(accepting...))
			dial(t, joinPort(host, s.port("http")), 300)
			for slot, n := range accept(t, s, 300) {
				if slot == away && n != 0 || slot != away && n < 50 {
					t.Errorf("%s without slot %d: slot %d got %d of 300", host, away, slot, n)
				}
			}
		}
		check(t, s.steer(make([]bool, 4)...))
		dial(t, joinPort(host, s.port("http")), 200)
		if counts := accept(t, s, 200); slices.Contains(counts, 0) {
			t.Errorf("%s with none accepting: %v", host, counts)
		}
	}
}

// A worker gives the group another program, or none: at the next look it has
// forkd's again.
func TestProgramIsRestored(t *testing.T) {
	s := open(t, 3, tcp("http", "127.0.0.1", 0))
	fds, err := s.files(0)
	check(t, err)
	for name, harm := range map[string]func() error{
		"all to slot 0": func() error {
			return setProgram(fds[0], unix.SO_ATTACH_REUSEPORT_CBPF, []bpf.Instruction{bpf.RetConstant{Val: 0}})
		},
		"none": func() error { return unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0) },
	} {
		for restore, call := range map[string]func() error{
			"all": func() error { _, err := s.RestoreAll(); return err },
			"one": func() error { _, err := s.Restore(2); return err },
		} {
			wantOnly(t, s, 1)
			check(t, harm())
			check(t, call())
			wantArrivals(t, s, []int{0, 20, 0})
			if t.Failed() {
				t.Fatalf("%s, restore %s", name, restore)
			}
		}
	}
}

// A worker locks its socket's filter, which forbids another program by that
// socket: it is given by another's.
func TestLockedFilter(t *testing.T) {
	s := open(t, 3, tcp("http", "127.0.0.1", 0))
	for slot := range 3 {
		fds, err := s.files(slot)
		check(t, err)
		check(t, unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1))
		if slot == 2 {
			wantError(t, s.steer(true, true, false), "cannot steer the connections of", "workers have locked every socket")
			break
		}
		wantEach(t, s, 3)
	}
	for range 2 {
		if restored, err := s.RestoreAll(); len(restored) != 0 || err == nil {
			t.Errorf("restored %v, %v", restored, err)
		}
	}
	for slot, damaged := range s.Damaged() { // each once
		if damaged.Slot != slot || !strings.Contains(damaged.Why, "SO_LOCK_FILTER, which cannot be set back: it gets another with the next reload") || slot > 2 {
			t.Errorf("damaged %+v", damaged)
		}
	}
}

// One client all the time, while slots are steered away and back.
func TestSteerUnderLoad(t *testing.T) {
	sameFiles(t)
	const slots, rounds, perRound = 4, 60, 25
	s := open(t, slots, tcp("http", "127.0.0.1", 0))
	var serving sync.WaitGroup
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	check(t, err)
	defer unix.Close(stop)
	for slot := range slots {
		fds, err := s.files(slot)
		check(t, err)
		serving.Go(func() {
			if err := serve(fds[0], stop, byte(slot)); err != nil {
				t.Errorf("slot %d: %v", slot, err)
			}
		})
	}

	const none = -1
	var away atomic.Int64 // the round times slots plus the slot, while it is steered away
	away.Store(none)
	var served [slots]int
	done, progress := make(chan struct{}), make(chan int64)
	var client sync.WaitGroup
	client.Go(func() {
		for {
			before := away.Load()
			slot, err := ask(loopback(s.port("http")))
			if err != nil {
				t.Errorf("a connection failed: %v", err)
			} else {
				served[slot]++
			}
			if before != none && before == away.Load() && err == nil && slot == int(before%slots) {
				t.Errorf("slot %d got a connection that began when it was steered away", slot)
			}
			select {
			case progress <- before:
			case <-done:
				return
			}
		}
	})
	for round := range int64(rounds) {
		slot := int(round % slots)
		accepting := slices.Repeat([]bool{true}, slots)
		accepting[slot] = false
		check(t, s.steer(accepting...))
		now := round*slots + int64(slot)
		away.Store(now)
		for n := 0; n < perRound; {
			if <-progress == now {
				n++
			}
		}
		away.Store(none)
		check(t, s.steer(slices.Repeat([]bool{true}, slots)...))
		for range perRound {
			<-progress
		}
	}
	close(done)
	client.Wait()
	_, err = unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	check(t, err)
	serving.Wait()
	for slot, n := range served {
		if n == 0 {
			t.Errorf("slot %d served nothing", slot)
		}
	}
}

// serve answers each connection with the slot's number until stop is readable.
func serve(fd, stop int, slot byte) error {
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if fds[0].Revents != 0 {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				return err
			}
			_, err = unix.Write(conn, []byte{slot})
			unix.Close(conn)
			if err != nil {
				return err
			}
		} else if fds[1].Revents != 0 {
			return nil
		}
	}
}

// ask opens a connection and returns who served it.
func ask(address string) (slot int, err error) {
	conn, err := net.DialTimeout("tcp", address, waitTimeout)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	answer := make([]byte, 1)
	_, err = conn.Read(answer)
	return int(answer[0]), err
}

// One client address, one slot, over IPv4 and IPv6 and both on one socket; the
// addresses spread. In a network namespace with IPv6 addresses of its own.
func TestSource(t *testing.T) {
	cmd := helperCommand(t, "source")
	cmd.SysProcAttr = namespaces(0)
	runHelper(t, cmd)
}

func helpSource() error {
	if err := setUpLoopback(40); err != nil {
		return err
	}
	l := tcp("http", "", 0)
	l.Balance = BalanceSource
	s, err := openApp([]Listener{l}, 4)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, kind := range []struct{ format, server string }{
		{"127.0.0.%d", "127.0.0.1"},
		{"::%x", "::1"},
	} {
		home := make([]int, 40) // each client's slot
		for i := range home {
			if home[i], err = sticks(s, fmt.Sprintf(kind.format, i+1), kind.server, -1, 10); err != nil {
				return err
			}
		}
		for slot := range 4 {
			if n := len(slices.DeleteFunc(slices.Clone(home), func(h int) bool { return h != slot })); n < 2 || n > 25 {
				return fmt.Errorf("slot %d has %d of 40 clients of %s", slot, n, kind.server)
			}
		}
		// Without slot 1 only its clients move, each to one slot; then back.
		for _, accepting := range [][]bool{{true, false, true, true}, {true, true, true, true}} {
			if err := s.steer(accepting...); err != nil {
				return err
			}
			for i, slot := range home {
				if !accepting[slot] {
					slot = -1
				}
				now, err := sticks(s, fmt.Sprintf(kind.format, i+1), kind.server, slot, 3)
				if err != nil {
					return err
				}
				if !accepting[now] {
					return fmt.Errorf("slot %d is away and has got a client", now)
				}
			}
		}
	}
	return nil
}

// sticks opens n connections from one address and returns the one slot that got
// them, which has to be want where that is not -1.
func sticks(s *testApp, from, to string, want, n int) (int, error) {
	for range n {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := dialer.Dial("tcp", joinPort(to, s.port("http")))
		if err != nil {
			return 0, err
		}
		counts, err := acceptFrom(s, 1)
		conn.Close()
		if err != nil {
			return 0, err
		}
		slot := slices.Index(counts, 1)
		if want >= 0 && slot != want {
			return 0, fmt.Errorf("client %s went to slot %d, before to %d", from, slot, want)
		}
		want = slot
	}
	return want, nil
}

// setUpLoopback brings lo up and gives it the addresses ::1 to ::n, as
// netdevice(7) and ipv6(7) say.
func setUpLoopback(n int) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("cannot bring lo up: %w", err)
	}
	for i := 2; i <= n; i++ { // ::1 is there
		request := struct {
			addr   [16]byte
			prefix uint32
			index  int32
		}{prefix: 128, index: 1}
		request.addr[15] = byte(i)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			return fmt.Errorf("cannot add ::%x to lo: %w", i, errno)
		}
	}
	return nil
}
