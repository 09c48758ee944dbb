package sockets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// resolveWithin bounds the look-up of a host name.
const resolveWithin = 10 * time.Second

// endpoint is where a listener's sockets are bound.
type endpoint struct {
	addr  netip.Addr // never v4-mapped
	port  int        // 0: not known yet
	dual  bool       // addr is ::, and v4 clients are served too
	scope uint32     // interface of a link-local v6 address
}

// String names the listener's address as an operator would write it.
func (l Listener) String() string {
	return net.JoinHostPort(l.Host, strconv.Itoa(l.Port))
}

// resolveAll resolves every listener and refuses two that would compete for
// the same connections.
func resolveAll(ls []Listener) ([]endpoint, error) {
	ipv6 := hasIPv6()
	ends := make([]endpoint, 0, len(ls))
	for i, l := range ls {
		end, err := resolve(l, ipv6)
		if err != nil {
			return nil, fmt.Errorf("cannot listen on %s: %w", l, err)
		}
		for j, other := range ends {
			if end.overlaps(other) {
				return nil, fmt.Errorf("cannot listen on %s: listeners %q and %q overlap: give one another port or address", l, ls[j].Name, ls[i].Name)
			}
		}
		ends = append(ends, end)
	}
	return ends, nil
}

func resolve(l Listener, ipv6 bool) (endpoint, error) {
	switch {
	case l.Network != "tcp" && l.Network != "tcp4" && l.Network != "tcp6":
		return endpoint{}, fmt.Errorf("unknown network %q", l.Network)
	case l.Balance != BalanceHash && l.Balance != BalanceSource:
		return endpoint{}, fmt.Errorf("unknown balance %q", l.Balance)
	}
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

// address finds the one address of the listener. Of a name with several it is
// the first of IPv4, as with net.Listen, unless the network is tcp6.
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
	ctx, cancel := context.WithTimeout(context.Background(), resolveWithin)
	defer cancel()
	family := "ip" + strings.TrimPrefix(l.Network, "tcp")
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, family, l.Host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot resolve the host name: %w", err)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	if i := slices.IndexFunc(addrs, netip.Addr.Is4); i >= 0 {
		return addrs[i], nil
	}
	return addrs[0], nil
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

// overlaps reports whether a client could reach both.
func (e endpoint) overlaps(o endpoint) bool {
	switch {
	case e.port != o.port || e.port == 0:
		return false
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

// explain says what to do about a socket that could not be opened.
func (g *group) explain(err error) error {
	l := g.listener
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return &HeldError{Listener: l, Holders: holders(g.end)}
	case errors.Is(err, unix.EACCES) && l.Port < 1024:
		return fmt.Errorf("cannot listen on %s: ports below 1024 need root or CAP_NET_BIND_SERVICE: start as root with `user` set, or choose a port from 1024", l)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("cannot listen on %s: %s is no address of this host: see `ip address`, or leave the host out", l, g.end.addr)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("cannot listen on %s: %w: a security module or net.ipv4.ip_unprivileged_port_start forbids it", l, err)
	default:
		return fmt.Errorf("cannot listen on %s: %w", l, err)
	}
}
