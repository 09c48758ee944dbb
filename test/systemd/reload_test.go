package systemd_test

import (
	"os/exec"
	"strings"
	"testing"
)

// A reload waits until the roll is done, under load, and loses nothing.
func TestReloadWaits(t *testing.T) {
	for _, dropIn := range []string{"", "notify-reload.conf"} {
		t.Run("as shipped"+dropIn, func(t *testing.T) { reloadWaits(t, dropIn) })
	}
}

func reloadWaits(t *testing.T, dropIn string) {
	a := newApp(t, settings{})
	if dropIn != "" {
		a.shipped(dropIn)
	}
	a.start()
	before := a.ready(0)
	l := newLoad(t, a.port, 4)
	defer l.none()

	gate := a.gate()
	a.configure(settings{flags: "-gate " + gate})
	reload := exec.CommandContext(t.Context(), "systemctl", "reload", a.unit)
	var said strings.Builder
	reload.Stdout, reload.Stderr = &said, &said
	if err := reload.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- reload.Wait() }()
	a.eventually("a successor is at the gate", func() (bool, string) {
		s, err := a.status()
		return err == nil && len(s.Slots) > 0 && len(s.Slots[0].Workers)+len(s.Slots[1].Workers) > 2, ""
	})
	select {
	case err := <-done:
		t.Errorf("reload has returned before the roll was done: %v\n%s", err, said.String())
		done <- err
	default:
	}
	if state := a.show("ActiveState"); state != "reloading" {
		t.Errorf("the unit is %s while it rolls", state)
	}
	a.open(gate)
	if err := <-done; err != nil {
		t.Errorf("reload: %v\n%s", err, said.String())
	}
	after, err := a.status()
	if err != nil {
		t.Fatal(err)
	}
	if after.Generation != before.Generation+1 || after.PID != before.PID || len(after.workers()) != 2 {
		t.Errorf("after the reload: %+v", after)
	}
	if state := a.show("ActiveState"); state != "active" {
		t.Errorf("the unit is %s after the reload", state)
	}
}

func TestReloadOfABadFileFails(t *testing.T) {
	a := newApp(t, settings{})
	a.start()
	before := a.ready(0)
	a.configure(settings{top: "wrokers = 4"})
	if out, err := a.run("systemctl", "reload", a.unit); err == nil {
		t.Errorf("systemctl reload has succeeded\n%s", out)
	}
	after, err := a.status()
	if err != nil || after.Generation != before.Generation || len(after.workers()) != 2 || a.show("ActiveState") != "active" {
		t.Errorf("after the reload: %s, %+v, %v", a.show("ActiveState"), after, err)
	}
	a.expectJournal(`wrokers.*workers`)
	a.configure(settings{})
	a.must("systemctl", "reload", a.unit)
}

func TestRolledBackReloadFails(t *testing.T) {
	a := newApp(t, settings{})
	a.start()
	before := a.ready(0)
	l := newLoad(t, a.port, 4)
	defer l.none()
	a.configure(settings{flags: "-fail"})
	if out, err := a.run("systemctl", "reload", a.unit); err == nil {
		t.Errorf("systemctl reload has succeeded\n%s", out)
	}
	if after := a.ready(0); after.PID != before.PID || after.Slots[0].Workers[0].Generation != before.Generation {
		t.Errorf("after the reload: %+v", after)
	}
}

// There is no "reload failed" for notify-reload: STATUS says it.
func TestNotifyReloadOfABadFileSaysSo(t *testing.T) {
	a := newApp(t, settings{})
	a.shipped("notify-reload.conf")
	a.start()
	before := a.ready(0)
	a.configure(settings{top: "wrokers = 4"})
	a.must("systemctl", "reload", a.unit)
	a.is("active")
	if text := a.show("StatusText"); !strings.Contains(text, "wrokers") {
		t.Errorf("STATUS is %q", text)
	}
	if after := a.ready(0); after.Generation != before.Generation {
		t.Errorf("after the reload: %+v", after)
	}
}
