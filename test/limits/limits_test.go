// Package limits_test runs forkd with control groups for its workers, in a virtual machine
// that test/with-systemd boots: the host may have the controllers in cgroup v1, where a
// group can't be divided up. The test binary runs itself in there.
package limits_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// binary is the variable that holds forkd: where it is set, this process is inside.
const binary = "LIMITS_TEST_FORKD"

// deadline is long: the machine has one slow CPU.
const deadline = 3 * time.Minute

func TestMain(m *testing.M) {
	if os.Getenv(binary) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	code, err := boot()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

// boot runs this test binary inside.
func boot() (code int, err error) {
	dir, err := os.MkdirTemp("", "forkd-limits-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	forkd, self := filepath.Join(dir, "forkd"), filepath.Join(dir, "limits.test")
	for _, args := range [][]string{{"build", "-o", forkd, "../../cmd/forkd"}, {"test", "-c", "-o", self, "."}} { // the race detector does not run in there
		build := exec.Command("go", args...)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("cannot build %s: %w\n%s", args[2], err, out)
		}
	}
	cmd := exec.Command("../with-systemd", append([]string{"--vm", self}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), binary+"="+forkd, "WITH_SYSTEMD_TIMEOUT=900", "WITH_SYSTEMD_SHARE="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = cmd.Run()
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return 0, nil
	case ended:
		return exit.ExitCode(), nil
	}
	return 0, fmt.Errorf("cannot run with-systemd: %w", err)
}

// program is a worker that greets who connects, does, at SIGUSR2, what the file "do" in its
// directory says, and outlives SIGTERM where there is a file "linger".
const program = `
import os, select, signal, socket, time
def do(what):
    if what == "memory":
        waste = []
        while True:
            waste.append(bytearray(os.urandom(1 << 20)))
    if what == "tasks":
        children = []
        try:
            for _ in range(100):
                pid = os.fork()
                if pid == 0:
                    time.sleep(1000)
                children.append(pid)
        except OSError as e:
            with open("said", "w") as f:
                f.write("%d %s" % (len(children), e.strerror))
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
def look(*_):
    with open("do") as f:
        what = f.read()
    do(what)
ending = False
def end(*_):
    global ending
    ending = not os.path.exists("linger")
woken, wake = socket.socketpair()
wake.setblocking(False)
signal.set_wakeup_fd(wake.fileno())
signal.signal(signal.SIGUSR2, look)
signal.signal(signal.SIGTERM, end)
to = os.environ["NOTIFY_SOCKET"]
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", to.replace("@", "\0", 1) if to[0] == "@" else to)
listener = socket.socket(fileno=3)
listener.setblocking(False)
while not ending:
    if woken in select.select([woken, listener], [], [])[0]:
        woken.recv(100)
        continue
    try:
        client = listener.accept()[0]
    except BlockingIOError:
        continue
    client.sendall(b"hello")
    client.close()
`

const address = "127.0.0.1:8123"

type app struct {
	t    *testing.T
	dir  string
	file string
}

// status is what is read of forkd status --json.
type status []struct {
	PID   int
	State string
	Slots []struct {
		Restarts int
		Reason   string
		LastExit *struct{ Reason string } `json:"last_exit"`
		Workers  []struct {
			PID   int
			State string
		}
	}
	Leftovers []struct{ PID int }
}

func newApp(t *testing.T, limits string) *app {
	t.Helper()
	if os.Getenv(binary) == "" {
		t.Skip("it needs root to boot a virtual machine")
	}
	a := &app{t, t.TempDir(), ""}
	a.file = filepath.Join(a.dir, "shop.toml")
	a.write("worker.py", program)
	a.configure(limits)
	return a
}

func (a *app) configure(limits string) {
	a.write("shop.toml", "command = ['/usr/bin/python3', 'worker.py']\nworkers = 2\nready.mode = 'notify'\nready.timeout = '2m'\ndrain.timeout = '2m'\nupdate.monitor = '100ms'\n"+limits+"[[listen]]\naddress = 'tcp://"+address+"'\n")
}

func (a *app) write(name, text string) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *app) run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = a.dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (a *app) must(name string, args ...string) string {
	a.t.Helper()
	out, err := a.run(name, args...)
	if err != nil {
		a.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

const (
	unit    = "forkd-shop.service"
	shipped = "forkd@shop.service"
)

// start runs the app as a service that may divide its group up.
func (a *app) start(properties ...string) {
	a.t.Helper()
	args := []string{
		"--unit", unit, "--service-type=notify", "-p", "NotifyAccess=main", "-p", "KillMode=process", "-p", "Restart=on-failure",
		"-p", "TimeoutStartSec=5min", "-p", "StandardOutput=append:" + filepath.Join(a.dir, "log"), "-p", "StandardError=inherit",
	}
	for _, p := range properties {
		args = append(args, "-p", p)
	}
	a.must("systemd-run", append(args, os.Getenv(binary), "run", "-c", a.file)...)
	a.stopAtEnd(unit)
}

// startShipped runs the app in the shipped unit, with limits.conf as a systemd sees it
// that knows DelegateSubgroup=, or does not.
func (a *app) startShipped(subgroup bool) {
	a.t.Helper()
	install := func(from, to string) {
		text, err := os.ReadFile("../../systemd/" + from)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		if err != nil {
			a.t.Fatal(err)
		}
		out := strings.NewReplacer("/usr/bin/forkd", os.Getenv(binary), "/etc/forkd/%i.toml", a.file).Replace(string(text))
		if !subgroup {
			out = strings.Replace(out, "\nDelegateSubgroup=", "\n#", 1)
		}
		if err := os.WriteFile(to, []byte(out), 0o644); err != nil {
			a.t.Fatal(err)
		}
	}
	const dir = "/etc/systemd/system/forkd@.service"
	install("forkd@.service", dir)
	install("forkd@.service.d/limits.conf", dir+".d/limits.conf")
	install("forkd@.service.d/hardened.conf", dir+".d/hardened.conf")
	if err := os.WriteFile(dir+".d/test.conf", []byte("[Service]\nUser=\nGroup=\nProtectHome=no\nPrivateTmp=no\nReadWritePaths="+a.dir+"\nStandardOutput=append:"+filepath.Join(a.dir, "log")+"\nStandardError=inherit\n"), 0o644); err != nil {
		a.t.Fatal(err)
	}
	a.must("systemctl", "daemon-reload")
	a.must("systemctl", "start", shipped)
	a.stopAtEnd(shipped)
}

func (a *app) stopAtEnd(unit string) {
	a.t.Helper()
	a.t.Cleanup(func() {
		if out, err := a.run("systemctl", "stop", unit); err != nil && !strings.Contains(out, "not loaded") {
			a.t.Error(out, err)
		}
		if a.t.Failed() {
			text, _ := os.ReadFile(filepath.Join(a.dir, "log"))
			a.t.Logf("%s", text)
		}
	})
}

// wait returns the first status that fits.
func (a *app) wait(what string, fits func(status) bool) (s status) {
	a.t.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		out, err := a.run(os.Getenv(binary), "status", "--json", "shop")
		if err == nil && json.Unmarshal([]byte(out), &s) == nil && len(s) == 1 && fits(s) {
			return s
		}
	}
	text, _ := os.ReadFile(filepath.Join(a.dir, "log"))
	a.t.Fatalf("%s: not within %v: %+v\n%s", what, deadline, s, text)
	return nil
}

// ready returns the workers' pids, another master's than the one named.
func (a *app) ready(not int) (master int, workers []int) {
	a.t.Helper()
	s := a.wait("ready", func(s status) bool {
		workers = nil
		for _, slot := range s[0].Slots {
			for _, w := range slot.Workers {
				if w.State == "ready" {
					workers = append(workers, w.PID)
				}
			}
		}
		return s[0].PID != not && len(workers) == 2
	})
	return s[0].PID, workers
}

func groupOf(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, group, _ := strings.Cut(strings.TrimSpace(string(text)), "::")
	return "/sys/fs/cgroup" + group
}

func leaves(unitGroup string) []string {
	found, _ := filepath.Glob(filepath.Join(unitGroup, "worker.*"))
	return found
}

func value(t *testing.T, group, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(group, file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func (a *app) does(pid int, what string) {
	a.t.Helper()
	a.write("do", what)
	a.must("kill", "-USR2", fmt.Sprint(pid))
}

// greet connects until it is over. It sends how often it has been greeted, once at first and
// at the end.
func greet(t *testing.T, over <-chan struct{}, clients chan<- int) {
	for n := 1; ; n++ {
		client, err := net.DialTimeout("tcp", address, deadline)
		if err == nil {
			_ = client.SetDeadline(time.Now().Add(deadline))
			var said []byte
			if said, err = io.ReadAll(client); err == nil && string(said) != "hello" {
				err = fmt.Errorf("said %q", said)
			}
			client.Close()
		}
		if err != nil {
			t.Errorf("client %d: %v", n, err)
		}
		if n == 1 {
			clients <- n
		}
		select {
		case <-over:
			clients <- n
			return
		default:
		}
	}
}

const limits = "limits.memory_max = '48MiB'\nlimits.tasks_max = 12\n"

// A worker that wants more memory than it may is killed, alone, and said to be; one that
// forks too much gets EAGAIN. Rolls, a killed master and a stop leave no group behind.
func TestLimits(t *testing.T) {
	a := newApp(t, limits)
	a.start("Delegate=memory pids", "DelegateSubgroup=forkd")
	master, workers := a.ready(0)
	leaf := groupOf(t, workers[0])
	unitGroup := filepath.Dir(leaf)
	if groupOf(t, master) != filepath.Join(unitGroup, "forkd") || len(leaves(unitGroup)) != 2 {
		t.Errorf("master in %s, leaves %v", groupOf(t, master), leaves(unitGroup))
	}
	for file, want := range map[string]string{"memory.max": fmt.Sprint(48 << 20), "pids.max": "12", "memory.oom.group": "1"} {
		if got := value(t, leaf, file); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
	a.does(workers[0], "tasks")
	for end := time.Now().Add(deadline); ; time.Sleep(100 * time.Millisecond) {
		if said, _ := os.ReadFile(filepath.Join(a.dir, "said")); string(said) == "11 Resource temporarily unavailable" {
			break
		} else if time.Now().After(end) {
			t.Fatalf("forks beyond tasks_max: %q", said)
		}
	}
	a.does(workers[0], "memory")
	want := fmt.Sprintf("killed by the OOM killer: it wanted more than limits.memory_max, %d bytes", 48<<20)
	a.wait("killed", func(s status) bool { return s[0].Slots[0].LastExit != nil && s[0].Slots[0].LastExit.Reason == want })
	_, now := a.ready(0)
	if now[1] != workers[1] {
		t.Errorf("workers %v, before %v", now, workers)
	}
	// A roll, with other limits, which no client sees.
	a.configure("limits.memory_max = '64MiB'\n")
	over, clients := make(chan struct{}), make(chan int)
	go greet(t, over, clients)
	before := <-clients
	a.must(os.Getenv(binary), "reload", "shop")
	close(over)
	if n := <-clients; n <= before {
		t.Error("nobody connected during the roll")
	}
	_, now = a.ready(0)
	leaf = groupOf(t, now[0])
	if memory, tasks := value(t, leaf, "memory.max"), value(t, leaf, "pids.max"); memory != fmt.Sprint(64<<20) || tasks != "max" {
		t.Errorf("memory.max %s, pids.max %s", memory, tasks)
	}
	// A killed master's workers are leftovers of the next one.
	a.must("kill", "-KILL", fmt.Sprint(master))
	_, now = a.ready(master)
	a.wait("without leftovers", func(s status) bool { return len(s[0].Leftovers) == 0 })
	for end := time.Now().Add(deadline); len(leaves(unitGroup)) != 2; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("leaves %v, workers %v", leaves(unitGroup), now)
		}
	}
	a.must("systemctl", "stop", unit)
	if left := leaves(unitGroup); len(left) > 0 {
		t.Errorf("after the stop: %v", left)
	}
}

// In the shipped unit a killed master's successor starts beside the workers that it has
// left, though processes are in groups below the unit's. A reload sets the first limits
// where the service manager has started the master in a group below the unit's.
func TestShippedUnit(t *testing.T) {
	for _, subgroup := range []bool{true, false} {
		t.Run(fmt.Sprintf("DelegateSubgroup=%t", subgroup), func(t *testing.T) {
			a := newApp(t, limits)
			if subgroup {
				a.configure("")
			}
			a.startShipped(subgroup)
			if subgroup {
				a.configure(limits)
			}
			a.must("systemctl", "reload", shipped)
			master, workers := a.ready(0)
			unitGroup := filepath.Dir(groupOf(t, master))
			for _, pid := range workers {
				if leaf := groupOf(t, pid); filepath.Dir(leaf) != unitGroup || value(t, leaf, "pids.max") != "12" {
					t.Errorf("a worker is in %s, the master below %s", leaf, unitGroup)
				}
			}
			a.write("linger", "")
			a.must("kill", "-KILL", fmt.Sprint(master))
			_, now := a.ready(master)
			s := a.wait("leftovers", func(s status) bool { return len(s[0].Leftovers) == 2 })
			for _, l := range s[0].Leftovers {
				a.must("kill", "-KILL", fmt.Sprint(l.PID))
			}
			if err := os.Remove(filepath.Join(a.dir, "linger")); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(deadline); len(leaves(unitGroup)) != 2; time.Sleep(100 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("leaves %v, workers %v", leaves(unitGroup), now)
				}
			}
			if got := value(t, groupOf(t, now[0]), "memory.max"); got != fmt.Sprint(48<<20) {
				t.Errorf("memory.max %s", got)
			}
		})
	}
}

// Where the group can't be divided up, the start says why, and so does a reload that comes
// too late.
func TestNoGroup(t *testing.T) {
	a := newApp(t, limits)
	out, err := a.run("systemd-run", "--wait", "--pipe", "-p", "ReadOnlyPaths=/sys/fs/cgroup", os.Getenv(binary), "run", "-c", a.file)
	if want := "cannot set limits.memory_max or limits.tasks_max: cannot enter a control group below /sys/fs/cgroup/"; err == nil || !strings.Contains(out, want) || !strings.Contains(out, "Delegate=yes") {
		t.Errorf("%v: %s, want %q", err, out, want)
	}
	out, err = a.run("systemd-run", "--scope", "-p", "Delegate=yes", "sh", "-c", os.Getenv(binary)+" run -c "+a.file+"; exit $?")
	if want := "has other processes than this"; err == nil || !strings.Contains(out, want) {
		t.Errorf("%v: %s, want %q", err, out, want)
	}
	a.configure("")
	a.start()
	a.ready(0)
	a.configure(limits)
	out, err = a.run(os.Getenv(binary), "reload", "shop")
	if want := "; then stop the app and run it again"; err == nil || !strings.Contains(out, want) {
		t.Errorf("%v: %s, want %q", err, out, want)
	}
}
