package sockets

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Who reaches what: the host and network of the listener, the client's address.
func TestFamilies(t *testing.T) {
	for _, c := range []struct {
		network, host string
		v4, v6        bool
	}{
		{"tcp", "", true, true},
		{"tcp", "::", true, true},
		{"tcp", "0.0.0.0", true, false},
		{"tcp", "127.0.0.1", true, false},
		{"tcp", "::ffff:127.0.0.1", true, false},
		{"tcp", "::1", false, true},
		{"tcp4", "", true, false},
		{"tcp6", "", false, true},
		{"tcp6", "::", false, true},
	} {
		t.Run(c.network+"_"+c.host, func(t *testing.T) {
			sameFiles(t)
			l := tcp("http", c.host, 0)
			l.Network = c.network
			s := open(t, 2, l)
			for host, want := range map[string]bool{"127.0.0.1": c.v4, "::1": c.v6} {
				conn, err := net.DialTimeout("tcp", joinPort(host, s.port("http")), waitTimeout)
				if err == nil {
					conn.Close()
				}
				if reached := err == nil; reached != want {
					t.Errorf("from %s: %v", host, err)
				}
			}
		})
	}
}

func TestAddressErrors(t *testing.T) {
	sameFiles(t)
	for _, c := range []struct {
		network, host string
		says          []string
	}{
		{"tcp", "203.0.113.7", []string{"cannot listen on 203.0.113.7:8080: ", "no address of this host", "set freebind = true"}},
		{"tcp", "2001:db8::7", []string{"cannot listen on [2001:db8::7]:8080: ", "no address of this host"}},
		{"tcp", "name.invalid", []string{`cannot listen on name.invalid:8080: "name.invalid" is not an IP address`}},
		{"tcp4", "::1", []string{"tcp4:// needs an IPv4 address"}},
		{"tcp6", "127.0.0.1", []string{"tcp6:// needs an IPv6 address"}},
		{"tcp6", "fe80::1%nowhere", []string{`no network interface "nowhere"`}},
	} {
		l := tcp("http", c.host, 8080)
		l.Network = c.network
		_, err := openApp([]Listener{l}, 2)
		wantError(t, err, c.says...)
	}
}

// A listener may stand before its address: in a network namespace that has none
// at first.
func TestFreebind(t *testing.T) {
	cmd := helperCommand(t, "freebind")
	cmd.SysProcAttr = namespaces(0)
	runHelper(t, cmd)
}

func helpFreebind() error {
	if err := setUpLoopback(1); err != nil {
		return err
	}
	var open []*testApp
	for _, host := range []string{"192.0.2.1", "::2"} {
		for port, mode := range map[int]string{0: ModeReuseport, 8081: ModeShared, 8082: ModeEach} {
			l := tcp("http", host, port)
			l.Mode = mode
			if _, err := openApp([]Listener{l}, 2); !strings.Contains(fmt.Sprint(err), "is no address of this host") {
				return fmt.Errorf("%s, %s, before there is an address: %v", host, mode, err)
			}
			l.Freebind = true
			s, err := openApp([]Listener{l}, 2)
			if err != nil {
				return err
			}
			defer s.Close()
			open = append(open, s)
		}
	}
	if err := setUpLoopback(2); err != nil {
		return err
	}
	if err := addLoopback([]byte{192, 0, 2, 1}); err != nil {
		return err
	}
	for _, s := range open {
		conn, err := net.Dial("tcp", s.listeners()[0].String())
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := acceptFrom(s, 1); err != nil {
			return err
		}
	}
	return nil
}

// addLoopback gives lo an IPv4 address (netdevice(7)).
func addLoopback(address []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := lo.SetInet4Addr(address); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, lo)
}

func TestOverlap(t *testing.T) {
	listener := func(name, text string) Listener {
		network, rest, _ := strings.Cut(text, "://")
		host, port, err := net.SplitHostPort(rest)
		check(t, err)
		l := tcp(name, host, 0)
		l.Network = network
		_, err = fmt.Sscan(port, &l.Port)
		check(t, err)
		return l
	}
	for _, c := range []struct {
		a, b    string
		overlap bool
	}{
		{"tcp://:8080", "tcp://:8080", true},
		{"tcp://:8080", "tcp://127.0.0.1:8080", true},
		{"tcp://:8080", "tcp4://:8080", true},
		{"tcp://:8080", "tcp6://[::1]:8080", true},
		{"tcp4://:8080", "tcp6://:8080", false},
		{"tcp4://:8080", "tcp://127.0.0.1:8080", true},
		{"tcp://127.0.0.1:8080", "tcp://127.0.0.2:8080", false},
		{"tcp://127.0.0.1:8080", "tcp4://127.0.0.1:8080", true},
		{"tcp://127.0.0.1:8080", "tcp://[::ffff:127.0.0.1]:8080", true},
		{"tcp://:8080", "tcp://:8081", false},
		{"tcp://:0", "tcp://:0", false},
	} {
		_, err := resolveAll([]Listener{listener("a", c.a), listener("b", c.b)}, 4)
		if !c.overlap {
			check(t, err)
			continue
		}
		wantError(t, err, "overlap", `"a" and "b"`)
	}
}

// Without IPv6 in the kernel, tcp means IPv4: a seccomp filter plays such a
// kernel, in a process of its own.
func TestNoIPv6(t *testing.T) { runHelper(t, helperCommand(t, "no-ipv6")) }

func helpNoIPv6() error {
	if err := forbidIPv6(); err != nil {
		return err
	}
	for _, host := range []string{"", "::"} {
		s, err := openApp([]Listener{tcp("http", host, 0)}, 2)
		if err != nil {
			return err
		}
		conn, err := net.DialTimeout("tcp", loopback(s.port("http")), waitTimeout)
		s.Close()
		if err != nil {
			return err
		}
		conn.Close()
	}
	_, err := openApp([]Listener{tcp("http", "", 8080), tcp("other", "0.0.0.0", 8080)}, 2)
	if err == nil || !strings.Contains(err.Error(), "overlap") {
		return fmt.Errorf("two listeners of IPv4: %v", err)
	}
	six := tcp("http", "", 0)
	six.Network = "tcp6"
	_, err = openApp([]Listener{six}, 2)
	if err == nil || !strings.Contains(err.Error(), "this host has no IPv6") {
		return fmt.Errorf("a listener of IPv6: %v", err)
	}
	return nil
}

// forbidIPv6 makes socket(AF_INET6) fail with EAFNOSUPPORT (seccomp(2)).
func forbidIPv6() error {
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4}, // seccomp_data.nr
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_SOCKET, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 16, Size: 4}, // its first argument
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_INET6, SkipTrue: 1},
		bpf.RetConstant{Val: 0x00050000 | uint32(unix.EAFNOSUPPORT)}, // SECCOMP_RET_ERRNO
		bpf.RetConstant{Val: 0x7fff0000},                             // SECCOMP_RET_ALLOW
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, ins := range raw {
		filter[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setModeFilter, allThreads = 1, 1
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, allThreads, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}
