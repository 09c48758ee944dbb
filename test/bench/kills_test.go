package main

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/load"
)

// The kernel's accept queue is told from what a process has accepted, in both
// families: forkd's sockets are dual-stack.
func TestConnectionsAcceptedAndQueued(t *testing.T) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var address unix.Sockaddr = &unix.SockaddrInet4{}
		if family == unix.AF_INET6 {
			address = &unix.SockaddrInet6{}
		}
		if err := unix.Bind(fd, address); err != nil {
			t.Fatal(err)
		}
		if err := unix.Listen(fd, 8); err != nil {
			t.Fatal(err)
		}
		port := 0
		switch name, _ := unix.Getsockname(fd); name := name.(type) {
		case *unix.SockaddrInet4:
			port = name.Port
		case *unix.SockaddrInet6:
			port = name.Port
		}
		first, second := dial(t, port), dial(t, port)
		taken, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		got, err := connectionsOf(os.Getpid(), port)
		if err != nil {
			t.Fatal(err)
		}
		if !got.accepted[first] || !got.queued[second] || len(got.accepted) != 1 || len(got.queued) != 1 {
			t.Errorf("family %d: got %+v, want %d accepted and %d queued", family, got, first, second)
		}
		_ = unix.Close(taken)
		_ = unix.Close(fd)
	}
}

// dial connects to a port of this host and returns the client's own.
func dial(t *testing.T, port int) uint16 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(name.(*unix.SockaddrInet4).Port)
}

func TestAKillExplainsOnlyItsOwn(t *testing.T) {
	at := time.Now()
	k := kill{at: at, had: connections{accepted: map[uint16]bool{1: true}, queued: map[uint16]bool{2: true}}}
	before, after := at.Add(-time.Second), at.Add(time.Second)
	for name, c := range map[string]struct {
		f            load.Failure
		dead, waited bool
	}{
		"accepted":             {load.Failure{Port: 1, Opened: before, At: after}, true, false},
		"queued":               {load.Failure{Port: 2, Opened: before, At: after}, false, true},
		"another's":            {load.Failure{Port: 3, Opened: before, At: after}, false, false},
		"the port again":       {load.Failure{Port: 1, Opened: after, At: after}, false, false},
		"failed before":        {load.Failure{Port: 1, Opened: before, At: before}, false, false},
		"refused, without one": {load.Failure{Opened: after, At: after}, false, false},
	} {
		if k.explains(c.f) != c.dead || k.onlyQueued(c.f) != c.waited {
			t.Errorf("%s: explained %v, only queued %v", name, k.explains(c.f), k.onlyQueued(c.f))
		}
	}
}
