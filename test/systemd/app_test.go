package systemd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// An app is an instance of forkd@.service with a port of its own. When its test
// ends it is stopped, and nothing of it may be left.
type app struct {
	t       *testing.T
	name    string
	unit    string
	port    int
	dropIns int
}

// settings are what a test writes into /etc/forkd/APP.toml: the worker's flags,
// and lines of TOML in place of, or beside, those that every app here has.
type settings struct {
	flags  string // of the worker
	drain  string // "": 30s
	ready  string // timeout; "": 30s
	listen string // address; "": 127.0.0.1 and the app's port
	top    string // more lines before the first table
}

var apps atomic.Int32 //nolint:gochecknoglobals // ports and names given out

// newApp makes the app, and does not start it.
func newApp(t *testing.T, s settings) *app {
	t.Helper()
	inside(t)
	n := int(apps.Add(1))
	a := &app{t: t, name: fmt.Sprintf("app%d", n), port: 8000 + n}
	a.unit = "forkd@" + a.name + ".service"
	a.configure(s)
	t.Cleanup(a.remove)
	return a
}

func (a *app) configure(s settings) {
	a.t.Helper()
	or := func(value, otherwise string) string {
		if value == "" {
			return otherwise
		}
		return value
	}
	command, err := json.Marshal(append([]string{workerPath}, strings.Fields(s.flags)...)) // TOML's too
	if err != nil {
		a.t.Fatal(err)
	}
	a.write("/etc/forkd/"+a.name+".toml", fmt.Sprintf(`command = %s
directory = "/"
workers = 2
%s
[[listen]]
name = "http"
address = %q
[ready]
mode = "notify"
timeout = %q
[update]
monitor = "200ms"
[drain]
timeout = %q
idle = "200ms"
`, command, s.top, or(s.listen, fmt.Sprintf("tcp://127.0.0.1:%d", a.port)), or(s.ready, "30s"), or(s.drain, "30s")))
}

func (a *app) write(path, text string) {
	a.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		a.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		a.t.Fatal(err)
	}
}

// dropIn adds settings to the app's unit.
func (a *app) dropIn(text string) {
	a.t.Helper()
	a.dropIns++
	a.write(fmt.Sprintf("%s/%s.d/%d.conf", unitDir, a.unit, a.dropIns), text)
	a.must("systemctl", "daemon-reload")
}

// shipped adds one of the drop-ins of the directory systemd.
func (a *app) shipped(name string) {
	a.t.Helper()
	text, err := os.ReadFile("../../systemd/forkd@.service.d/" + name)
	if err != nil {
		a.t.Fatal(err)
	}
	a.dropIn(string(text))
}

// remove stops the app and looks for what is left of it.
func (a *app) remove() {
	if a.t.Failed() {
		out, _ := a.run("journalctl", "--no-pager", "--output=short-precise", "--lines=150", "--unit="+a.unit)
		a.t.Logf("the journal of %s:\n%s", a.unit, out)
	}
	socket := "forkd@" + a.name + ".socket"
	_, _ = a.run("systemctl", "stop", socket) // not every app has one
	if out, err := a.run("systemctl", "stop", a.unit); err != nil {
		a.t.Errorf("cannot stop %s: %v\n%s", a.unit, err, out)
	}
	if left := processes(a.t); len(left) > 0 {
		a.t.Errorf("processes are left of %s: %v", a.name, left)
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by now
		}
	}
	if _, err := os.Stat("/run/forkd/" + a.name); !errors.Is(err, fs.ErrNotExist) {
		a.t.Errorf("/run/forkd/%s is left: %v", a.name, err)
	}
	_, _ = a.run("systemctl", "reset-failed", a.unit, socket)
	for _, path := range []string{unitDir + "/" + a.unit + ".d", unitDir + "/" + socket, "/etc/forkd/" + a.name + ".toml"} {
		if err := os.RemoveAll(path); err != nil {
			a.t.Error(err)
		}
	}
	_, _ = a.run("systemctl", "daemon-reload")
}

// processes lists those of forkd and its workers, whatever unit they are of: in
// this pid namespace there are no others but a test's own.
func processes(t *testing.T) (left []int) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		exe, err := os.Readlink(dir + "/exe")
		if pid, bad := strconv.Atoi(filepath.Base(dir)); err == nil && bad == nil && (exe == forkdPath || exe == workerPath) {
			left = append(left, pid)
		}
	}
	return left
}

// run runs a command to its end, within two minutes.
func (a *app) run(name string, args ...string) (output string, err error) {
	// Also in a cleanup, when the test's own context is over.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (a *app) must(name string, args ...string) string {
	a.t.Helper()
	out, err := a.run(name, args...)
	if err != nil {
		a.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (a *app) start() {
	a.t.Helper()
	a.must("systemctl", "start", a.unit)
}

// show is a property of the unit.
func (a *app) show(property string) string {
	a.t.Helper()
	return strings.TrimSpace(a.must("systemctl", "show", "--value", "--property="+property, a.unit))
}

// pid is the master's.
func (a *app) pid() int {
	a.t.Helper()
	pid, err := strconv.Atoi(a.show("MainPID"))
	if err != nil {
		a.t.Fatal(err)
	}
	return pid
}

// journal is what the unit has said so far, and systemd of it.
func (a *app) journal() string {
	a.t.Helper()
	a.must("journalctl", "--sync")
	return a.must("journalctl", "--no-pager", "--output=cat", "--unit="+a.unit)
}

func (a *app) expectJournal(pattern string) {
	a.t.Helper()
	if text := a.journal(); !regexp.MustCompile(pattern).MatchString(text) {
		a.t.Errorf("the journal does not say %q:\n%s", pattern, text)
	}
}

// status is what these tests look at in forkd status --json.
type status struct {
	PID        int
	State      string
	Generation int
	Slots      []struct {
		State   string
		Workers []struct {
			PID        int
			Generation int
			State      string
		}
	}
	Leftovers []struct {
		PID    int
		State  string
		KillAt *time.Time `json:"kill_at"`
	}
}

func (a *app) status() (status, error) {
	out, err := a.run(forkdPath, "status", "--json", a.name)
	if err != nil {
		return status{}, fmt.Errorf("%w: %s", err, out)
	}
	var list []status
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
		return status{}, fmt.Errorf("not one app: %w in %s", err, out)
	}
	return list[0], nil
}

// workers are the pids of those that serve, sorted.
func (s status) workers() (pids []int) {
	for _, slot := range s.Slots {
		for _, w := range slot.Workers {
			if w.State == "ready" {
				pids = append(pids, w.PID)
			}
		}
	}
	slices.Sort(pids)
	return pids
}

// ready waits until both workers serve under a master other than old.
func (a *app) ready(old int) status {
	a.t.Helper()
	var s status
	a.eventually("both workers are ready", func() (bool, string) {
		var err error
		s, err = a.status()
		return err == nil && s.PID != old && len(s.workers()) == 2, fmt.Sprintf("%+v %v", s, err)
	})
	return s
}

// eventually waits for something that will come, for a minute at most.
func (a *app) eventually(what string, look func() (ok bool, seen string)) {
	a.t.Helper()
	seen := ""
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		ok := false
		if ok, seen = look(); ok {
			return
		}
	}
	a.t.Fatalf("waited in vain: %s; last seen: %s", what, seen)
}

// is waits for the unit to be in a state.
func (a *app) is(active string) {
	a.t.Helper()
	a.eventually("the unit is "+active, func() (bool, string) {
		now := a.show("ActiveState")
		return now == active, now
	})
}

func alive(pid int) bool {
	_, err := os.Stat("/proc/" + strconv.Itoa(pid))
	return err == nil
}

// gate is a file that a worker waits for, which is not there yet.
func (a *app) gate() string {
	path := "/run/gate-" + a.name
	a.t.Cleanup(func() { os.Remove(path) })
	return path
}

func (a *app) open(gate string) {
	a.t.Helper()
	a.write(gate, "")
}
