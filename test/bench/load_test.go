package main

import (
	"context"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestClosedLoopCountsEachRequestOnce(t *testing.T) {
	var served atomic.Int64
	address := listen(t, func(int) string { served.Add(1); return answer })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	o := closedLoop(ctx, address, mix(8), 0)
	if len(o.failures) > 0 {
		t.Fatalf("%v failed, first %v", count(o.failures), o.failures[0].err)
	}
	if int64(o.requests) != served.Load() || o.latency.count != uint64(o.requests) {
		t.Errorf("%d requests and %d times counted, %d served", o.requests, o.latency.count, served.Load())
	}
}

// A server that stalls once must be charged for all requests that were due
// meanwhile, though the client could not send them: a naive client would see
// one slow request per connection.
func TestFixedRateChargesAStall(t *testing.T) {
	const before, stall, all = time.Second, 2 * time.Second, 5 * time.Second
	var began atomic.Int64
	start := time.Now()
	address := listen(t, func(int) string {
		since := time.Since(start)
		if since > before && since < before+stall {
			began.CompareAndSwap(0, int64(since))
			time.Sleep(before + stall - since)
		}
		return answer
	})
	o := fixedRate(t.Context(), address, keeping, 2, 50, all)
	if o.requests != 250 || len(o.failures) > 0 {
		t.Fatalf("%d answered, %v failed, want 250 and none", o.requests, count(o.failures))
	}
	// 100 of 250 were due in the stall, evenly: half of these waited for over half of it.
	if p80 := o.latency.quantile(0.8); p80 < stall/4 {
		t.Errorf("p80 is %v: the requests that were due in a stall of %v are missing", p80, stall)
	}
	if p50 := o.latency.quantile(0.5); p50 > stall/4 {
		t.Errorf("p50 is %v: the requests outside of the stall are late too", p50)
	}
}

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
		f            failure
		dead, waited bool
	}{
		"accepted":             {failure{port: 1, opened: before, at: after}, true, false},
		"queued":               {failure{port: 2, opened: before, at: after}, false, true},
		"another's":            {failure{port: 3, opened: before, at: after}, false, false},
		"the port again":       {failure{port: 1, opened: after, at: after}, false, false},
		"failed before":        {failure{port: 1, opened: before, at: before}, false, false},
		"refused, without one": {failure{opened: after, at: after}, false, false},
	} {
		if k.explains(c.f) != c.dead || k.onlyQueued(c.f) != c.waited {
			t.Errorf("%s: explained %v, only queued %v", name, k.explains(c.f), k.onlyQueued(c.f))
		}
	}
}
