package sockets

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/ports"
)

// harmOptions gives a socket another value for each option that it has, and says
// which.
func harmOptions(t *testing.T, fd int) (harmed []string) {
	t.Helper()
	for _, o := range options() {
		before := o.get(fd)
		if before == nil || os.Getuid() != 0 && (o.label == "SO_MARK" || o.label == "SO_BINDTODEVICE") {
			continue
		}
		value := make([]byte, len(before))
		number := map[string]uint32{"IP_TOS": 8, "IPV6_TCLASS": 8, "SO_RCVBUF": 9000, "SO_SNDBUF": 9000, "TCP_MAXSEG": 600, "SO_BUF_LOCK": 3, "SO_RCVLOWAT": 2, "IP_MTU_DISCOVER": 2, "IPV6_MTU_DISCOVER": 2}[o.label]
		if number == 0 {
			number = 1
		}
		if o.label == "TCP_CONGESTION" {
			copy(value, "reno")
		} else {
			binary.NativeEndian.PutUint32(value, number)
			if len(value) == 8 && o.label == "SO_LINGER" {
				binary.NativeEndian.PutUint32(value[4:], 1)
			}
		}
		_ = unix.SetsockoptString(fd, o.level, o.name, string(value))
		if !bytes.Equal(o.get(fd), before) {
			harmed = append(harmed, o.label)
		}
	}
	return harmed
}

// Whatever options a worker sets: when nobody has the socket they are as on one
// that is new.
func TestReset(t *testing.T) {
	sameFiles(t)
	for name, l := range map[string]Listener{
		"IPv4":   tcp("http", "127.0.0.1", 0),
		"dual":   tcp("http", "", 0),
		"shared": inMode(ModeShared, tcp("http", "127.0.0.1", 0)),
		"each":   inMode(ModeEach, tcp("http", "127.0.0.1", ports.Free(t, 2))),
		"unix":   unixAt(socketPath(t)),
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, 1, l)
			files, err := s.files(0)
			check(t, err)
			if changed, err := s.Reset(0); len(changed) != 0 || err != nil {
				t.Errorf("nothing was changed, set back %v, %v", changed, err)
			}
			fresh := readOptions(files[0])
			harmed := harmOptions(t, files[0])
			if least := map[bool]int{true: 5, false: 22}[name == "unix"]; len(harmed) < least {
				t.Errorf("only %v could be harmed", harmed)
			}
			check(t, unix.SetNonblock(files[0], false))
			changed, err := s.Reset(0)
			check(t, err)
			for _, label := range harmed {
				if !slices.Contains(changed, label) && label != "SO_PRIORITY" { // IP_TOS's has done it
					t.Errorf("%s is not set back", label)
				}
			}
			for i, value := range readOptions(files[0]) {
				if !bytes.Equal(value, fresh[i]) {
					t.Errorf("%s is %v, was %v", options()[i].label, value, fresh[i])
				}
			}
			if flags, err := unix.FcntlInt(uintptr(files[0]), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("flags %x, %v", flags, err)
			}
		})
	}
}

// One socket for all is set back when no slot has a worker.
func TestResetOfShared(t *testing.T) {
	s := open(t, 2, inMode(ModeShared, tcp("http", "127.0.0.1", 0)), unixAt(socketPath(t)))
	for slot := range 2 {
		files, err := s.files(slot)
		check(t, err)
		for _, fd := range files {
			check(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1))
		}
	}
	for slot, want := range []int{0, 1} {
		if changed, err := s.Reset(slot); len(changed) != want || err != nil {
			t.Errorf("slot %d: set back %v, %v", slot, changed, err)
		}
	}
}

// systemd's are set back to what systemd had set.
func TestResetOfPassed(t *testing.T) {
	sameFiles(t)
	given, _ := unitSockets(t, "http", 1, v4(0))
	check(t, unix.SetsockoptInt(given[0].FD, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1))
	s := openGiven(t, given, nil, 1, tcp("http", "127.0.0.1", portOf(t, given[0])))
	files, err := s.files(0)
	check(t, err)
	check(t, unix.SetsockoptInt(files[0], unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0))
	check(t, unix.SetsockoptInt(files[0], unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	if changed, err := s.Reset(0); !slices.Equal(changed, []string{"SO_KEEPALIVE", "TCP_NODELAY"}) || err != nil {
		t.Errorf("set back %v, %v", changed, err)
	}
}

// A program's TCP_FASTOPEN is the slot's socket's, until nobody has that: then it is as
// listen(2) had set it, by net.ipv4.tcp_fastopen.
func TestFastOpen(t *testing.T) {
	for _, setting := range []string{"1", "1027"} {
		cmd := helperCommand(t, "fastopen", "FASTOPEN="+setting)
		cmd.SysProcAttr = namespaces(0)
		runHelper(t, cmd)
	}
}

func helpFastOpen() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte(os.Getenv("FASTOPEN")), 0); err != nil {
		return err
	}
	l := tcp("http", "", 0)
	s, err := openApp([]Listener{l}, 1)
	if err != nil {
		return err
	}
	defer s.Close()
	files, err := s.files(0)
	if err != nil {
		return err
	}
	queue := func(fd int) int {
		n, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN)
		if err != nil {
			return -1
		}
		return n
	}
	fresh := map[string]int{"1": 0, "1027": l.Backlog}[os.Getenv("FASTOPEN")]
	for _, asked := range []int{0, 5, 0} {
		own, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(own)
		if asked > 0 {
			if err := unix.SetsockoptInt(own, unix.IPPROTO_TCP, unix.TCP_FASTOPEN, asked); err != nil {
				return err
			}
		}
		want := fresh
		if asked > 0 {
			want = asked
		}
		p := binding("::", s.port("http"), true, false)
		p.Socket = own
		if fd, err := s.line.Take(0, 0, p, "program"); err != nil || fd != files[0] || queue(fd) != want {
			return fmt.Errorf("asked for %d, took %d with %d, want %d, %w", asked, fd, queue(fd), want, err)
		}
		if changed, err := s.Reset(0); len(changed) > 0 || err != nil || queue(files[0]) != fresh {
			return fmt.Errorf("set back %v to %d, want %d, %w", changed, queue(files[0]), fresh, err)
		}
	}
	if err := unix.SetsockoptInt(files[0], unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 7); err != nil { // by a worker, later
		return err
	}
	if changed, err := s.Reset(0); !slices.Equal(changed, []string{"TCP_FASTOPEN"}) || err != nil || queue(files[0]) != fresh {
		return fmt.Errorf("set back %v to %d, want %d, %w", changed, queue(files[0]), fresh, err)
	}
	return nil
}
