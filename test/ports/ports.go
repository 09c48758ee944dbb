// Package ports finds TCP ports for tests and benchmarks that must know a port
// before anybody binds it.
//
// A port that the kernel picked for a moment is no such port: it is from the range
// of outgoing connections (ip_local_port_range, ip(7)), so a connection or a test
// beside this one may have it the moment after.
package ports

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// The range ends below 32768, where Linux begins to take those of outgoing connections.
const first, end = 10_000, 32_000

// Free returns the first of n ports beside each other that are this test's until it ends.
func Free(t testing.TB, n int) int {
	t.Helper()
	port, release, err := Take(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return port
}

// Take returns the first of n ports beside each other, at least 1. No socket of this
// host has them, of any family, not even one in TIME_WAIT, and no other call of Take
// is given them, in this process or another, before they are released.
func Take(n int) (port int, release func(), err error) {
	for range 1000 {
		port = first + rand.IntN(end-first-n)
		if release, err = take(port, n); err == nil || !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		return 0, nil, fmt.Errorf("no free TCP port: %w", err)
	}
	return port, release, nil
}

// take holds a name in the abstract namespace for each port (unix(7)): like ports
// these are of the network namespace, and they are gone with the process.
func take(port, n int) (release func(), err error) {
	var names []net.Listener
	release = func() {
		for _, name := range names {
			name.Close()
		}
	}
	for p := port; p < port+n; p++ {
		name, err := net.Listen("unix", "@forkd-test-port-"+strconv.Itoa(p))
		if err == nil {
			names = append(names, name)
			err = isFree(p)
		}
		if err != nil {
			release()
			return nil, err
		}
	}
	return release, nil
}

// isFree binds without SO_REUSEADDR, which would hide connections in TIME_WAIT.
func isFree(port int) error {
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: port})
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: port}
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return err
		}
	}
	return unix.Bind(fd, address)
}
