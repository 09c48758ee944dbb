// Package closingtest makes sockets whose close(2) blocks, for tests.
package closingtest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
)

// Silent is the address of a server on the IPv4 loopback that never reads.
func Silent(t testing.TB) string {
	t.Helper()
	server, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server.Addr().String()
}

// Send sends the descriptors of n lingering sockets into a unix socket and keeps none. to
// is from Silent.
func Send(socket, n int, text, to string) error {
	fds := make([]int, 0, n)
	defer new(closing.Closer).Run(func() { // they may have been closed there already
		for _, fd := range fds {
			unix.Close(fd)
		}
	})
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		fds = append(fds, fd)
		if err := Fill(fd, to); err != nil {
			return err
		}
	}
	return os.NewSyscallError("sendmsg", unix.Sendmsg(socket, []byte(text), unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL))
}

// Fill connects a TCP socket and writes until its buffer is full. Closing it then blocks
// for an hour.
func Fill(fd int, to string) error {
	address, err := netip.ParseAddrPort(to)
	if err != nil {
		return err
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: address.Addr().As4(), Port: int(address.Port())})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) { // which the loopback is done with by now
		return os.NewSyscallError("connect", err)
	}
	for err = nil; err == nil; {
		_, err = unix.SendmsgN(fd, make([]byte, 1<<16), nil, nil, unix.MSG_DONTWAIT)
	}
	if !errors.Is(err, unix.EAGAIN) {
		return os.NewSyscallError("sendmsg", err)
	}
	hour := unix.Linger{Onoff: 1, Linger: int32(time.Hour / time.Second)}
	return os.NewSyscallError("setsockopt SO_LINGER", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &hour))
}

// Returns fails the test unless f returns within 30 s.
func Returns(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s is held by what was sent along", what)
	}
}
