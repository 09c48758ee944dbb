package systemd_test

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// A TimeoutStopSec= that is too short for drain.timeout is extended, and said.
// So it is where the stop does not come from systemd.
func TestStopTimeoutIsExtended(t *testing.T) {
	for name, stop := range map[string]func(a *app){
		"systemctl": func(a *app) { a.must("systemctl", "stop", a.unit) },
		"signal": func(a *app) {
			if err := syscall.Kill(a.pid(), syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			a.eventually("the unit has stopped", func() (bool, string) {
				state := a.show("ActiveState")
				return state == "inactive" || state == "failed", state
			})
		},
	} {
		t.Run(name, func(t *testing.T) { stopsInTime(t, stop) })
	}
}

func stopsInTime(t *testing.T, stop func(*app)) {
	a := newApp(t, settings{drain: "1m"})
	a.dropIn("[Service]\nTimeoutStopSec=1\n")
	a.start()
	a.ready(0)
	a.expectJournal(`TimeoutStopSec`)
	failed := make(chan error, 1)
	go func() {
		_, err := a.get("/slow?for=10s")
		failed <- err
	}()
	a.eventually("the request is under way", func() (bool, string) { return connected(t, a.port) > 0, "no connection" })
	began := time.Now()
	stop(a)
	if err := <-failed; err != nil {
		t.Errorf("a request that was under way: %v", err)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if result := a.show("Result"); result != "success" {
		t.Errorf("the stop ended with %s", result)
	}
}

// As shipped nothing is said: TimeoutStopSec= is long enough for the defaults.
func TestShippedStopTimeoutIsEnough(t *testing.T) {
	a := newApp(t, settings{drain: "30s"})
	a.start()
	a.ready(0)
	if text := a.journal(); strings.Contains(text, "TimeoutStopSec") {
		t.Errorf("the journal warns:\n%s", text)
	}
	if n := a.show("NFileDescriptorStore"); n != "3" {
		t.Errorf("%s descriptors are in the store", n)
	}
	a.must("systemctl", "stop", a.unit)
	if n := a.show("NFileDescriptorStore"); n != "0" {
		t.Errorf("%s descriptors are left in the store of a stopped unit", n)
	}
	if left := listening(t, a.port); len(left) > 0 {
		t.Errorf("sockets %v still listen", left)
	}
}
