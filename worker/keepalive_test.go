package worker

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

// Every connection probes its client as net's own do. Those that came before the worker
// get it from net, those that come later from the listening socket, so that no system
// call is needed for them.
func TestKeepAliveIsInherited(t *testing.T) {
	master, err := alone().Listen("http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	f, err := master.(*listener).Listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	passed := int(f.Fd())
	set := func(level, name, value int) {
		t.Helper()
		if err := unix.SetsockoptInt(passed, level, name, value); err != nil {
			t.Fatal(err)
		}
	}
	dial := func() {
		t.Helper()
		c, err := net.Dial("tcp", master.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}

	set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0) // as a master's socket
	dial()
	queue := []unix.PollFd{{Fd: int32(passed), Events: unix.POLLIN}}
	if n, err := unix.Poll(queue, 60_000); n != 1 {
		t.Fatalf("no connection is in the queue: %v", err)
	}
	fd, err := unix.Dup(passed)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := alone(ipc.Socket{FD: fd, Name: "http"}).Listen("http", "")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 77) // nobody but the listening socket has that
	dial()
	for i, idle := range []int{15, 77} {
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = raw.Control(func(fd uintptr) {
			for _, o := range [][3]int{
				{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
				{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
				{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, idle},
				{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
				{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
			} {
				if got, err := unix.GetsockoptInt(int(fd), o[0], o[1]); err != nil || got != o[2] {
					t.Errorf("connection %d: option %d.%d is %d, %v, want %d", i, o[0], o[1], got, err, o[2])
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
