package systemd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestActiveOnlyWhenReady(t *testing.T) {
	a := newApp(t, settings{})
	gate := a.gate()
	a.configure(settings{flags: "-gate " + gate})
	a.must("systemctl", "start", "--no-block", a.unit)
	a.eventually("both workers run", func() (bool, string) {
		s, err := a.status()
		if err != nil || len(s.Slots) != 2 {
			return false, ""
		}
		return len(s.Slots[0].Workers) == 1 && len(s.Slots[1].Workers) == 1, s.State
	})
	if state := a.show("ActiveState"); state != "activating" {
		t.Errorf("no worker is ready, and the unit is %s", state)
	}
	a.open(gate)
	a.is("active")
	a.must(forkdPath, "status", "-q", a.name)
	if _, err := a.get("/"); err != nil {
		t.Error(err)
	}
	if text := a.show("StatusText"); !strings.Contains(text, "2/2") {
		t.Errorf("STATUS is %q", text)
	}
	a.must("systemctl", "stop", a.unit)
	if state, result := a.show("ActiveState"), a.show("Result"); state != "inactive" || result != "success" {
		t.Errorf("stopped, it is %s: %s", state, result)
	}
}

// An app of a unit with a User= and without a RuntimeDirectory= has its directory in /tmp,
// which may be the unit's own: root finds it.
func TestFoundInTmp(t *testing.T) {
	for _, private := range []string{"yes", "no"} {
		t.Run("PrivateTmp="+private, func(t *testing.T) {
			a := newApp(t, settings{})
			a.must("chmod", "1777", "/tmp") // as everywhere
			a.shipped("hardened.conf")
			a.dropIn("[Service]\nRuntimeDirectory=\nReadWritePaths=/tmp\nPrivateTmp=" + private + "\n")
			a.start()
			s := a.ready(0)
			if s.PID != a.pid() {
				t.Errorf("status finds the master %d, and it is %d", s.PID, a.pid())
			}
			dirs, err := filepath.Glob("/tmp/forkd-*/" + a.name)
			if hidden := len(dirs) == 0; err != nil || hidden != (private == "yes") {
				t.Errorf("its directory: %q %v", dirs, err)
			}
			if out := a.must(forkdPath, "status"); !strings.Contains(out, a.name+": ready 2/2") {
				t.Errorf("status of all:\n%s", out)
			}
			a.must(forkdPath, "stop", a.name)
			a.is("inactive")
		})
	}
}

func TestDegradedIsActiveAndSaysSo(t *testing.T) {
	a := newApp(t, settings{flags: "-lame 1", ready: "4s"})
	a.start()
	if text := a.show("StatusText"); !strings.Contains(text, "degraded") {
		t.Errorf("STATUS is %q", text)
	}
	if _, err := a.get("/"); err != nil {
		t.Error(err)
	}
}

func TestAppThatNeverComesUpFailsTheUnit(t *testing.T) {
	a := newApp(t, settings{flags: "-fail", ready: "1s"})
	a.dropIn("[Unit]\nStartLimitBurst=2\n")
	if out, err := a.run("systemctl", "start", a.unit); err == nil {
		t.Errorf("systemctl start has succeeded\n%s", out)
	}
	a.is("failed") // and not before the second try
	if code := a.show("ExecMainStatus"); code != "1" {
		t.Errorf("forkd has ended with status %s", code)
	}
	if n := a.show("NRestarts"); n == "0" {
		t.Error("it was not tried again")
	}
	a.expectJournal(`worker: told to fail`)
}

func TestBadFileIsNotTriedAgain(t *testing.T) {
	a := newApp(t, settings{top: "wrokers = 4"})
	if out, err := a.run("systemctl", "start", a.unit); err == nil {
		t.Errorf("systemctl start has succeeded\n%s", out)
	}
	a.is("failed")
	if code, n := a.show("ExecMainStatus"), a.show("NRestarts"); code != "2" || n != "0" {
		t.Errorf("status %s, %s restarts; want 2 and none", code, n)
	}
	a.expectJournal(`app\d+\.toml:\d+:\d+: .*wrokers.*workers`)
}

// TestUnitOfForkdUnit installs what forkd unit prints.
func TestUnitOfForkdUnit(t *testing.T) {
	a := newApp(t, settings{})
	path := unitDir + "/" + a.name + ".service"
	a.write(path, a.must(forkdPath, "unit", a.name))
	t.Cleanup(func() { os.Remove(path) }) // after a.remove, which reads no units
	a.unit = a.name + ".service"
	if out := a.must("systemd-analyze", "verify", "--man=no", path); out != "" {
		t.Errorf("systemd-analyze verify says\n%s", out)
	}
	a.must("systemctl", "daemon-reload")
	a.start()
	if _, err := a.get("/"); err != nil {
		t.Error(err)
	}
}

// TestUnitsLoadOnNewerSystemd is TestUnitsLoad of package systemd, with the
// systemd that runs here and the drop-in that it alone understands.
func TestUnitsLoadOnNewerSystemd(t *testing.T) {
	for _, dropIn := range []string{"", "notify-reload.conf", "hardened.conf", "limits.conf"} {
		a := newApp(t, settings{})
		if dropIn != "" {
			a.shipped(dropIn)
		}
		if out := a.must("systemd-analyze", "verify", "--man=no", a.unit); out != "" {
			t.Errorf("%s: systemd-analyze verify says\n%s", dropIn, out)
		}
		if dropIn == "hardened.conf" {
			t.Log(lastLine(a.must("systemd-analyze", "security", "--threshold=30", a.unit)))
		}
	}
	a := newApp(t, settings{})
	if out := a.must("systemd-analyze", "verify", "--man=no", "forkd@"+a.name+".socket"); out != "" {
		t.Errorf("socket: systemd-analyze verify says\n%s", out)
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
