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

	"golang.org/x/sys/unix"
)

// endpoint is where a socket is bound.
type endpoint struct {
	addr  netip.Addr // never v4-mapped
	port  int        // 0: not known yet
	dual  bool       // addr is ::, and v4 clients are served too
	scope uint32     // interface of a link-local v6 address
}

// bindAddr is where a listener wants to be.
type bindAddr struct {
	mode  string
	end   endpoint // of TCP
	ports int      // how many, from the endpoint's on
	path  string   // of unix
}

// String is the address as an operator would write it.
func (l Listener) String() string {
	if l.Network == "unix" {
		return "unix://" + l.Path
	}
	return net.JoinHostPort(l.Host, strconv.Itoa(l.Port))
}

func (e endpoint) String() string { return net.JoinHostPort(e.host(), strconv.Itoa(e.port)) }

func (e endpoint) withPort(port int) endpoint {
	e.port = port
	return e
}

func (e endpoint) host() string {
	if e.scope == 0 {
		return e.addr.String()
	}
	return e.addr.WithZone(strconv.FormatUint(uint64(e.scope), 10)).String()
}

// resolveAll refuses overlapping listeners. The rest of their values has been checked by
// whoever made them.
func resolveAll(ls []Listener, slots int) ([]bindAddr, error) {
	ipv6 := hasIPv6()
	all := make([]bindAddr, 0, len(ls))
	for _, l := range ls {
		at, err := resolve(l, slots, ipv6)
		if err != nil {
			return nil, fmt.Errorf("cannot listen on %s: %w", l, err)
		}
		for j, other := range all {
			if at.overlap(other) != "" {
				return nil, fmt.Errorf("cannot listen on %s: listeners %q and %q overlap: give one another address", l, ls[j].Name, l.Name)
			}
		}
		all = append(all, at)
	}
	return all, nil
}

const maxPort = 1<<16 - 1

// MaxPath is the longest path of a unix socket in bytes: sun_path of unix(7) ends with a
// zero.
const MaxPath = 107

func resolve(l Listener, slots int, ipv6 bool) (at bindAddr, err error) {
	if l.Network == "unix" {
		return bindAddr{mode: ModeShared, path: filepath.Clean(l.Path)}, nil
	}
	at = bindAddr{mode: cmp.Or(l.Mode, ModeReuseport), ports: 1, end: endpoint{port: l.Port}}
	if at.mode == ModeEach {
		at.ports = slots
	}
	if last := l.Port + at.ports - 1; last > maxPort {
		return at, fmt.Errorf("mode %q with %d slots needs the ports %d to %d, and 65535 is the last: start lower", at.mode, slots, l.Port, last)
	}
	addr, err := parseHost(l.Network, l.Host)
	if err != nil {
		return at, err
	}
	at.end.addr, at.end.dual = addr.WithZone(""), l.Network == "tcp" && addr == netip.IPv6Unspecified()
	switch {
	case ipv6 || addr.Is4():
	case at.end.dual:
		at.end.addr, at.end.dual = netip.IPv4Unspecified(), false
	default:
		return at, errors.New("this host has no IPv6: listen on an IPv4 address")
	}
	if addr.Zone() != "" {
		at.end.scope, err = scope(addr.Zone())
	}
	return at, err
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

// same reports whether two serve the same address in the same way.
func (a bindAddr) same(b bindAddr) bool {
	a.ports = b.ports
	return a == b
}

// families are the addresses at which a listener there can be served: a dual-stack one also
// at IPv4's and IPv6's alone.
func (a bindAddr) families() []bindAddr {
	all := []bindAddr{a}
	if a.end.dual {
		v4, v6 := a, a
		v4.end.addr, v4.end.dual, v6.end.dual = netip.IPv4Unspecified(), false, false
		all = append(all, v4, v6)
	}
	return all
}

// Overlap returns what two listeners would both take with so many slots: a port or
// a path, also a unix socket's second name; "" for nothing.
func Overlap(a, b Listener, slots int) string {
	one, err := resolve(a, slots, true)
	other, err2 := resolve(b, slots, true)
	if err != nil || err2 != nil {
		return ""
	}
	return one.overlap(other)
}

func (a bindAddr) overlap(b bindAddr) string {
	port := max(a.end.port, b.end.port)
	switch {
	case a.path != "" && (a.path == b.path || a.path == fileAt(b.path).second):
		return a.path
	case b.path != "" && b.path == fileAt(a.path).second:
		return b.path
	case a.path != "" || b.path != "" || a.end.port == 0 || b.end.port == 0:
		return ""
	case port < a.end.port+a.ports && port < b.end.port+b.ports && a.end.meets(b.end):
		return fmt.Sprintf("port %d of an address", port)
	}
	return ""
}

// meets reports whether a client could reach both, if they were on one port.
func (e endpoint) meets(o endpoint) bool {
	return e.dual || o.dual || e.addr.Is4() == o.addr.Is4() &&
		(e.addr.IsUnspecified() || o.addr.IsUnspecified() || e.addr == o.addr && e.scope == o.scope)
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

// hasIPv6 is false if the kernel was started or built without it. With IPv6 disabled by
// sysctl dual-stack sockets still work.
func hasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err == nil {
		unix.Close(fd)
	}
	return !errors.Is(err, unix.EAFNOSUPPORT)
}

// explain turns an error of opening a TCP socket into advice.
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
