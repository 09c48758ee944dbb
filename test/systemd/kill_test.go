package systemd_test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The master is killed under load. No connection is refused and none that is
// queued is reset: the sockets wait in systemd's store, and its successor takes
// these very ones.
func TestKilledMaster(t *testing.T) {
	a := newApp(t, settings{})
	a.start()
	killMaster(t, a)
}

func TestKilledMasterHardened(t *testing.T) {
	a := newApp(t, settings{listen: "tcp://127.0.0.1:80"})
	a.port = 80
	a.shipped("hardened.conf")
	a.start()
	if text := a.must("ps", "-o", "user=", "-p", fmt.Sprint(a.pid())); text != "www-data\n" {
		t.Errorf("the master runs as %q", text)
	}
	killMaster(t, a)
	a.must("systemctl", "reload", a.unit)
	a.ready(0)
}

func killMaster(t *testing.T, a *app) {
	before := a.ready(0)
	sockets := listening(t, a.port)
	if n := a.show("NFileDescriptorStore"); n != "3" {
		t.Errorf("%s descriptors are in the store, want one for each slot and the record of their order", n)
	}
	type answer struct {
		body string
		err  error
	}
	slow := make(chan answer, 1)
	go func() {
		body, err := a.get("/slow?for=3s")
		slow <- answer{body, err}
	}()
	a.eventually("the request is under way", func() (bool, string) { return connected(t, a.port) > 0, "no connection" })
	l := newLoad(t, a.port, 8)
	for range 3 { // one after the other: each successor is a victim
		old, err := a.status()
		if err != nil {
			t.Fatal(err)
		}
		kill(t, old.PID)
		s := a.ready(old.PID)
		if common := slices.DeleteFunc(s.workers(), func(pid int) bool { return !slices.Contains(old.workers(), pid) }); len(common) > 0 {
			t.Errorf("workers %v were taken over", common)
		}
		if now := listening(t, a.port); !slices.Equal(now, sockets) {
			t.Errorf("the successor listens on sockets %v, its predecessor did on %v", now, sockets)
		}
	}
	got := <-slow
	if got.err != nil {
		t.Errorf("a request that was under way: %v", got.err)
	} else if pid := from(t, got.body); !slices.Contains(before.workers(), pid) {
		t.Errorf("a request was asked of %v and answered by %d", before.workers(), pid)
	}
	a.eventually("all leftovers are gone", func() (bool, string) {
		s, err := a.status()
		if err != nil || len(s.Leftovers) > 0 {
			return false, fmt.Sprintf("%+v %v", s, err)
		}
		left := processes(t)
		return len(left) == 3, fmt.Sprint(left) // the master and two workers
	})
	l.none()
	if n := a.show("NRestarts"); n != "3" {
		t.Errorf("%s restarts", n)
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// What ignores its signal is shown as draining, and ended when its time is over.
func TestStubbornLeftovers(t *testing.T) {
	const drain = 20 * time.Second // more than the successor needs
	a := newApp(t, settings{flags: "-stubborn", drain: drain.String()})
	a.start()
	before := a.ready(0)
	killed := time.Now()
	kill(t, before.PID)
	s := a.ready(before.PID)
	var shown []int
	for _, l := range s.Leftovers {
		shown = append(shown, l.PID)
		if l.State != "draining" || l.KillAt == nil || l.KillAt.Sub(killed) < drain-time.Second || l.KillAt.Sub(killed) > drain+time.Minute {
			t.Errorf("killed at %v, it shows %+v", killed, l)
		}
	}
	if slices.Sort(shown); !slices.Equal(shown, before.workers()) {
		t.Errorf("it shows leftovers %v, and %v were left", shown, before.workers())
	}
	for _, pid := range before.workers() {
		a.eventually("the leftover is gone", func() (bool, string) { return !alive(pid), "it lives" })
	}
	if took := time.Since(killed); took < drain-time.Second {
		t.Errorf("leftovers had %v of %v", took, drain)
	}
	a.eventually("no leftover is shown", func() (bool, string) {
		s, err := a.status()
		return err == nil && len(s.Leftovers) == 0 && len(s.workers()) == 2, fmt.Sprintf("%+v %v", s, err)
	})
	// A stop soon after takes the leftovers along: remove sees to it that none is left.
	s = a.ready(0)
	kill(t, s.PID)
	a.ready(s.PID)
}

// What a leftover starts while it drains goes with it: the master forgets nobody.
func TestLeftoversOfLeftovers(t *testing.T) {
	a := newApp(t, settings{flags: "-stubborn -breed", drain: "3s"})
	a.start()
	before := a.ready(0)
	bred := func() string {
		out, _ := a.run("pgrep", "-c", "-f", "^sleep 98765$") // exit status 1: none
		return strings.TrimSpace(out)
	}
	a.eventually("processes were started", func() (bool, string) { n := bred(); return n != "0", n })
	a.must("sed", "-i", "s/ *\"-breed\",*//", "/etc/forkd/"+a.name+".toml")
	kill(t, before.PID)
	a.ready(before.PID)
	a.must("forkd", "reload", a.name) // the new workers breed no more
	a.eventually("all that were bred are gone", func() (bool, string) { n := bred(); return n == "0", n })
}

// A hung master is killed by systemd's watchdog; its workers serve meanwhile.
func TestWatchdog(t *testing.T) {
	a := newApp(t, settings{})
	a.dropIn("[Service]\nWatchdogSec=10\n")
	a.start()
	before := a.ready(0)
	l := newLoad(t, a.port, 4)
	// It lives for more than the watchdog's time while it is well.
	for until := time.Now().Add(12 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if pid := a.pid(); pid != before.PID {
			t.Fatalf("the master was restarted: %d is %d", before.PID, pid)
		}
	}
	if err := syscall.Kill(before.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	a.ready(before.PID)
	l.none()
	a.expectJournal(`(?s)SIGABRT.*goroutine \d+`) // by the watchdog; and what it hung at
	if n := a.show("NRestarts"); n != "1" {
		t.Errorf("%s restarts", n)
	}
}
