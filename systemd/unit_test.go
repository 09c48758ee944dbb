package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestGroupAndUnit(t *testing.T) {
	for _, c := range []struct {
		file, group, unit string
		user              bool
	}{
		{"0::/system.slice/system-forkd.slice/forkd@shop.service\n", "/system.slice/system-forkd.slice/forkd@shop.service", "forkd@shop.service", false},
		{"12:pids:/x.service\n1:name=systemd:/system.slice/a.service\n0::/\n", "/system.slice/a.service", "a.service", false},
		{"1:name=systemd:/\n0::/system.slice/a.service\n", "/system.slice/a.service", "a.service", false},
		{"0::/user.slice/user-7.slice/user@7.service/app.slice/shop.service/sub\n", "/user.slice/user-7.slice/user@7.service/app.slice/shop.service/sub", "shop.service", true},
		{"0::/system.slice/_a.service\n", "/system.slice/_a.service", "a.service", false},
		{"0::/init.scope\n", "/init.scope", "", false},
		{"0::/a:b.service\n", "/a:b.service", "a:b.service", false},
		{"", "", "", false},
		{"nonsense\n:::\n", "", "", false},
	} {
		group := groupIn(c.file)
		unit, user := unitIn(group)
		if group != c.group || unit != c.unit || user != c.user {
			t.Errorf("%q: %q, %q, %v", c.file, group, unit, user)
		}
	}
}

func TestOthersOfAGroup(t *testing.T) {
	for _, c := range []struct {
		procs string
		pids  []int
		found bool
	}{
		{"7\n42\n9\n", []int{7, 9}, true},
		{"42\n", nil, true},
		{"7\n0\nx\n-3\n", []int{7}, false},
		{"", nil, false},
	} {
		if pids, found := others(c.procs, 42); !slices.Equal(pids, c.pids) || found != c.found {
			t.Errorf("%q: %v, %v", c.procs, pids, found)
		}
	}
}

func TestParseSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1min 30s": 90 * time.Second, "90s": 90 * time.Second, "500ms": 500 * time.Millisecond, "0": 0,
		"infinity": forever, "1h 2min 3.500000s": time.Hour + 2*time.Minute + 3500*time.Millisecond, "10us": 10 * time.Microsecond,
		"2d": 48 * time.Hour, "1w": 168 * time.Hour, "1month": 2629800 * time.Second, "300y": forever, "1.5s": 1500 * time.Millisecond,
	} {
		if got, err := parseSpan(text); got != want || err != nil {
			t.Errorf("%s: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "90", "s", "-5s", "1min 30", "NaNs", "+Infs", "5 s", "1fortnight"} {
		if got, err := parseSpan(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestNotAService(t *testing.T) {
	for _, pid := range []string{"", "1"} {
		t.Setenv("SYSTEMD_EXEC_PID", pid)
		if name, ok := Unit(); ok || name != "" {
			t.Errorf("a unit %q", name)
		}
		if pids := Leftovers(); pids != nil {
			t.Errorf("leftovers %v", pids)
		}
		if _, err := StopTimeout(t.Context()); err == nil {
			t.Error("it has a TimeoutStopSec")
		}
	}
}

// sayUnit is the main process of the service in TestService.
func sayUnit() {
	name, ok := Unit()
	timeout, err := StopTimeout(context.Background())
	fmt.Printf("unit %s %v, stops in %v %v, others %d\n", name, ok, timeout, err, len(Leftovers()))
}

// underSystemd runs a script under a real systemd and returns what it prints.
// $0 in it is this test binary.
func underSystemd(t *testing.T, script string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it needs root to start a systemd")
	}
	cmd := exec.CommandContext(t.Context(), "../test/with-systemd", "sh", "-c", script, os.Args[0])
	cmd.Env = append(os.Environ(), "WITH_SYSTEMD_TIMEOUT=60")
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if exit, ended := errors.AsType[*exec.ExitError](err); ended && exit.ExitCode() == 125 {
		t.Skipf("no systemd can be booted here: %s", out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// The process is a transient service, and another waits in its control group.
func TestService(t *testing.T) {
	got := underSystemd(t, `out=$(mktemp)
systemd-run --quiet --wait --service-type=exec --unit=asked -p KillMode=process -p TimeoutStopSec=95 -p StandardOutput=file:$out \
	-E SYSTEMD_TEST_HELPER=unit -p ExecStartPre='/bin/sh -c "sleep 300 & exit 0"' "$0" </dev/null
cat "$out"`)
	if want := "unit asked.service true, stops in 1m35s <nil>, others 1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A listening socket that is stored comes back, the same one, under its name,
// after SIGKILL and though it was shut down; what was removed does not.
func TestStoreSurvives(t *testing.T) {
	got := underSystemd(t, `out=$(mktemp)
systemd-run --quiet --wait --service-type=notify --unit=keeps -p FileDescriptorStoreMax=4 -p Restart=on-failure \
	-p StandardOutput=append:$out -E SYSTEMD_TEST_HELPER=store "$0" </dev/null
cat "$out"`)
	first, second, _ := strings.Cut(got, "\n")
	inode, ok := strings.CutPrefix(first, "storing ")
	if want := "passed http.0 " + inode + "\n"; !ok || second != want {
		t.Errorf("got %q", got)
	}
}

// sayStored is the main process of the service in TestStoreSurvives.
func sayStored() {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(0)
		}
	}
	inode := func(fd int) uint64 {
		var stat unix.Stat_t
		fail(unix.Fstat(fd, &stat))
		return stat.Ino
	}
	fds, err := ListenFDs()
	fail(err)
	n := NewNotifier()
	n.Tell("READY=1")
	for _, fd := range fds {
		fmt.Println("passed", fd.Name, inode(fd.Number))
	}
	if len(fds) > 0 {
		n.Close()
		return
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	fail(err)
	fail(unix.Listen(socket, 1))
	fmt.Println("storing", inode(socket))
	n.Store("http.1", socket)
	n.Store("http.2", socket) // in the store already, as http.1
	n.Remove("http.1")
	n.Store("http.1", 0)
	n.Store("http.0", socket)
	n.Remove("http.1")
	fail(unix.Shutdown(socket, unix.SHUT_RDWR))
	n.Close()
	fail(unix.Kill(os.Getpid(), unix.SIGKILL))
}

func TestUnitFile(t *testing.T) {
	template := UnitFile("", "/usr/bin/forkd")
	shipped, err := os.ReadFile("forkd@.service")
	if err != nil || template != string(shipped) {
		t.Errorf("without an app it is not the shipped one: %v\n%s", err, template)
	}
	own := UnitFile("shop", "/opt/my apps/100%/forkd")
	for _, want := range []string{
		`ExecStart=/opt/my\x20apps/100%%/forkd run -c /etc/forkd/shop.toml --name shop` + "\n",
		`ExecReload=/opt/my\x20apps/100%%/forkd reload %t/forkd/shop` + "\n",
		"RuntimeDirectory=forkd/shop\n",
		"Description=forkd app shop\n",
	} {
		if !strings.Contains(own, want) {
			t.Errorf("no %q in\n%s", want, own)
		}
	}
	for _, forbidden := range []string{"%i", "APP", "/usr/bin/forkd"} {
		if strings.Contains(own, forbidden) {
			t.Errorf("%s is in\n%s", forbidden, own)
		}
	}
}

// A path is left as it is, whatever is in it.
func TestUnitFileOfAnOddPath(t *testing.T) {
	for app, name := range map[string]string{"shop": "shop", "": "%i"} {
		text := UnitFile(app, "/opt/%i/APP.toml =/usr/bin/forkd x/forkd")
		if want := `=/opt/%%i/APP.toml\x20=/usr/bin/forkd\x20x/forkd run -c /etc/forkd/` + name + ".toml --name " + name + "\n"; !strings.Contains(text, want) {
			t.Errorf("%q: no %q in\n%s", app, want, text)
		}
	}
}

// load has systemd-analyze read a unit: it exits 0 on an unknown key, so what
// counts is that it says nothing of it. With the unit it loads others of the
// machine, and says what it finds in those.
func load(t *testing.T, unit string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", unit).CombinedOutput()
	if about := aboutUnit(string(out), unit); err != nil || about != "" {
		t.Errorf("%s: %v\n%s", filepath.Base(unit), err, about)
	}
}

// aboutUnit keeps the lines that systemd-analyze says of a unit file, of its
// drop-ins, and of the unit, which for a template is an instance of it.
func aboutUnit(said, path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".")
	var about []string
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, filepath.Dir(path)+"/") || strings.HasPrefix(line, name) {
			about = append(about, line)
		}
	}
	return strings.Join(about, "")
}

// What systemd-analyze 252 said of two bad units, beside a bad one of the machine.
func TestAboutUnit(t *testing.T) {
	const foreign = "/etc/systemd/system/unicorn.service:4: Unit uses KillMode=none. This is unsafe\nunicorn.service: Command /usr/bin/unicorn is not executable: No such file or directory\n"
	for path, own := range map[string]string{
		"/tmp/x/forkd@.service": "/tmp/x/forkd@.service:3: Unknown key 'Foo' in section [Service], ignoring.\n/tmp/x/forkd@.service.d/hardened.conf:2: Unknown key 'FF' in section [Service], ignoring.\n",
		"/tmp/x/shop.service":   "/tmp/x/shop.service:4: Missing '=', ignoring line.\nshop.service: Command /bin/nonexist is not executable: No such file or directory\n",
		"/tmp/x/good.service":   "",
	} {
		if got := aboutUnit(foreign+own, path); got != own {
			t.Errorf("%s: got\n%swant\n%s", path, got, own)
		}
	}
}

// TestUnitsLoad asks the machine's own systemd-analyze, that of Debian 12 being
// of the oldest systemd that the units are for. test/systemd asks a newer one.
func TestUnitsLoad(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze here: test/install installs it, as root")
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	odd := write("odd 100%;$x/forkd", "#!/bin/sh\n")
	if err := os.Chmod(odd, 0o755); err != nil {
		t.Fatal(err)
	}
	template := write("forkd@.service", UnitFile("", os.Args[0]))
	load(t, template)
	load(t, write("forkd@.socket", read("forkd@.socket")))
	load(t, write("shop.service", UnitFile("shop", odd)))
	for _, name := range []string{"forkd-fleet.service", "forkd-advise@.service"} {
		unit := write(name, strings.Replace(read(name), installed, os.Args[0], 1))
		load(t, unit)
		if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=yes", "--threshold=15", unit).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}

	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=yes", "--threshold=30", template).CombinedOutput()
	if err == nil {
		t.Errorf("the template alone is under the threshold: hardened.conf has no effect here\n%s", out)
	}
	write("forkd@.service.d/hardened.conf", read("forkd@.service.d/hardened.conf"))
	load(t, template)
	out, err = exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=yes", "--threshold=30", template).CombinedOutput()
	if err != nil {
		t.Errorf("hardened.conf: %v\n%s", err, out)
	}
	if at := strings.LastIndex(string(out), "→"); at >= 0 {
		t.Logf("%s", out[at:])
	}
	if strconv.Itoa(len(out)) == "0" {
		t.Error("systemd-analyze says nothing")
	}
}
