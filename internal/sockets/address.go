package sockets

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// endpoint is where a listener's sockets are bound.
type endpoint struct {
	addr  netip.Addr // never v4-mapped
	port  int        // 0: not known yet
	dual  bool       // addr is ::, and v4 clients are served too
	scope uint32     // interface of a link-local v6 address
}

// spot is where a listener wants to be, resolved.
type spot struct {
	mode  string
	end   endpoint // of TCP
	ports int      // how many, from the endpoint's on
	path  string   // of unix
}

// String names the listener's address as an operator would write it.
func (l Listener) String() string {
	if l.Network == "unix" {
		return "unix://" + l.Path
	}
	return net.JoinHostPort(l.Host, strconv.Itoa(l.Port))
}

// String names an endpoint as Listener.String does.
func (e endpoint) String() string {
	addr := e.addr
	if e.scope != 0 {
		addr = addr.WithZone(strconv.FormatUint(uint64(e.scope), 10))
	}
	return netip.AddrPortFrom(addr, uint16(e.port)).String()
}

// resolveAll resolves every listener and refuses two that would compete for
// the same connections.
func resolveAll(ls []Listener, slots int) ([]spot, error) {
	ipv6 := hasIPv6()
	spots := make([]spot, 0, len(ls))
	for _, l := range ls {
		at, err := resolve(l, slots, ipv6)
		if err != nil {
			return nil, fmt.Errorf("cannot listen on %s: %w", l, err)
		}
		for j, other := range spots {
			switch {
			case ls[j].Name == l.Name:
				return nil, fmt.Errorf("cannot listen on %s: two listeners are named %q: give one another name", l, l.Name)
			case at.overlaps(other):
				return nil, fmt.Errorf("cannot listen on %s: listeners %q and %q overlap: give one another address", l, ls[j].Name, l.Name)
			}
		}
		spots = append(spots, at)
	}
	return spots, nil
}

const maxPort = 1<<16 - 1

// resolve checks a listener.
func resolve(l Listener, slots int, ipv6 bool) (spot, error) {
	if l.Network == "unix" {
		return resolvePath(l)
	}
	mode := cmp.Or(l.Mode, ModeReuseport)
	switch {
	case l.Network != "tcp" && l.Network != "tcp4" && l.Network != "tcp6":
		return spot{}, fmt.Errorf("unknown network %q", l.Network)
	case mode != ModeReuseport && mode != ModeShared && mode != ModeEach:
		return spot{}, fmt.Errorf("unknown mode %q", l.Mode)
	case mode == ModeReuseport && l.Balance != BalanceHash && l.Balance != BalanceSource:
		return spot{}, fmt.Errorf("unknown balance %q", l.Balance)
	case l.Port < 0 || l.Port > maxPort:
		return spot{}, fmt.Errorf("no such port: 0 to 65535")
	case mode == ModeEach && l.Port == 0:
		return spot{}, fmt.Errorf("mode %q needs the port of the first slot: give one", mode)
	case mode == ModeEach && l.Port+slots-1 > maxPort:
		return spot{}, fmt.Errorf("mode %q with %d slots needs the ports %d to %d, and 65535 is the last: start lower", mode, slots, l.Port, l.Port+slots-1)
	}
	end, err := resolveEndpoint(l, ipv6)
	ports := 1
	if mode == ModeEach {
		ports = slots
	}
	return spot{mode: mode, end: end, ports: ports}, err
}

// maxPath is how long a unix socket's path may be: sun_path of unix(7), with a
// zero at its end.
const maxPath = 107

func resolvePath(l Listener) (spot, error) {
	switch {
	case l.Mode != "" && l.Mode != ModeShared:
		return spot{}, fmt.Errorf("a unix socket is always %s: mode %q cannot be had", ModeShared, l.Mode)
	case !filepath.IsAbs(l.Path):
		return spot{}, errors.New("the path is not absolute")
	case strings.ContainsRune(l.Path, 0):
		return spot{}, errors.New("the path has a zero byte in it")
	case len(filepath.Clean(l.Path)) > maxPath:
		return spot{}, fmt.Errorf("the path has %d bytes, and the kernel takes %d: choose a shorter one", len(filepath.Clean(l.Path)), maxPath)
	case strings.HasSuffix(l.Path, "/"):
		return spot{}, errors.New("the path is a directory's: name a file in it")
	}
	return spot{mode: ModeShared, path: filepath.Clean(l.Path)}, nil
}

func resolveEndpoint(l Listener, ipv6 bool) (endpoint, error) {
	addr, err := address(l)
	if err != nil {
		return endpoint{}, err
	}
	dual := l.Network == "tcp" && addr == netip.IPv6Unspecified()
	switch {
	case l.Network == "tcp4" && !addr.Is4():
		return endpoint{}, errors.New("not an IPv4 address: use tcp:// or tcp6://")
	case l.Network == "tcp6" && !addr.Is6():
		return endpoint{}, errors.New("not an IPv6 address: use tcp:// or tcp4://")
	case addr.Is6() && !ipv6 && !dual:
		return endpoint{}, errors.New("this host has no IPv6: listen on an IPv4 address")
	case !ipv6 && dual:
		return endpoint{addr: netip.IPv4Unspecified(), port: l.Port}, nil
	}
	end := endpoint{addr: addr.WithZone(""), port: l.Port, dual: dual}
	if addr.Zone() != "" {
		if end.scope, err = scope(addr.Zone()); err != nil {
			return endpoint{}, err
		}
	}
	return end, nil
}

// address is the listener's, never v4-mapped.
func address(l Listener) (netip.Addr, error) {
	if l.Host == "" {
		if l.Network == "tcp4" {
			return netip.IPv4Unspecified(), nil
		}
		return netip.IPv6Unspecified(), nil
	}
	if addr, err := netip.ParseAddr(l.Host); err == nil {
		return addr.Unmap(), nil
	}
	return netip.Addr{}, fmt.Errorf("%q is no IP address", l.Host)
}

func scope(zone string) (uint32, error) {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	nic, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("no network interface %q", zone)
	}
	return uint32(nic.Index), nil
}

// same reports whether two serve the same, in the same way.
func (s spot) same(o spot) bool {
	return s.mode == o.mode && s.end == o.end && s.path == o.path
}

// Overlap is what two listeners, each with so many slots, would both take: a port or
// a path, a unix socket's second name too; "" for nothing.
func Overlap(a, b Listener, slots int) string {
	a.Balance, b.Balance = BalanceHash, BalanceHash // of no matter here
	one, err := resolve(a, slots, true)
	other, err2 := resolve(b, slots, true)
	switch {
	case err != nil || err2 != nil:
		return ""
	case one.path != "" && (one.path == other.path || one.path == fileAt(other.path).spare):
		return one.path
	case other.path != "" && fileAt(one.path).spare == other.path:
		return other.path
	case one.overlaps(other):
		return fmt.Sprintf("port %d of an address", max(one.end.port, other.end.port))
	}
	return ""
}

// overlaps reports whether a client could reach both.
func (s spot) overlaps(o spot) bool {
	if s.path != "" || o.path != "" {
		return s.path == o.path
	}
	if s.end.port == 0 || o.end.port == 0 || s.end.port+s.ports <= o.end.port || o.end.port+o.ports <= s.end.port {
		return false
	}
	return s.end.meets(o.end)
}

// meets reports whether there is a client that reaches both, if on one port.
func (e endpoint) meets(o endpoint) bool {
	switch {
	case e.dual || o.dual:
		return true
	case e.addr.Is4() != o.addr.Is4():
		return false
	default:
		return e.addr.IsUnspecified() || o.addr.IsUnspecified() || (e.addr == o.addr && e.scope == o.scope)
	}
}

func (e endpoint) family() int {
	if e.addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (e endpoint) sockaddr() unix.Sockaddr {
	if e.addr.Is4() {
		return &unix.SockaddrInet4{Addr: e.addr.As4(), Port: e.port}
	}
	return &unix.SockaddrInet6{Addr: e.addr.As16(), Port: e.port, ZoneId: e.scope}
}

// hasIPv6 is false on a host whose kernel was started or built without it. One
// that has it switched off by sysctl still makes dual-stack sockets.
func hasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return !errors.Is(err, unix.EAFNOSUPPORT)
	}
	unix.Close(fd)
	return true
}

// explain says what to do about a TCP socket that could not be opened.
func (e endpoint) explain(l Listener, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return &HeldError{Listener: l, Holders: holders(e)}
	case errors.Is(err, unix.EACCES) && l.Port < 1024 && os.Geteuid() == 0:
		return fmt.Errorf("cannot listen on %s: %w: this root is without CAP_NET_BIND_SERVICE, as in a container that drops it, or a security module forbids it", l, err)
	case errors.Is(err, unix.EACCES) && l.Port < 1024:
		return fmt.Errorf("cannot listen on %s: ports below 1024 need root or CAP_NET_BIND_SERVICE: start as root with `user` set, or choose a port from 1024", l)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("cannot listen on %s: %s is no address of this host: see `ip address`, leave the host out, or set freebind = true where it comes later", l, e.addr)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("cannot listen on %s: %w: a security module or net.ipv4.ip_unprivileged_port_start forbids it", l, err)
	default:
		return fmt.Errorf("cannot listen on %s: %w", l, err)
	}
}
