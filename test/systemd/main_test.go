// Package systemd_test runs forkd under a real systemd, by the units that are
// shipped: a private one, which test/with-systemd boots, with its own /etc, /run
// and network, so that nothing of the machine is touched or in the way.
//
// The test binary runs itself in there: outside it only builds the programs and
// boots. Every test begins with newApp or inside, which skip where that could
// not be done.
package systemd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// programs is the variable that holds the directory of the programs under test:
// where it is set, this process is inside.
const programs = "SYSTEMD_TEST_PROGRAMS"

// Where the programs are inside: forkd where the units expect it.
const (
	forkdPath  = "/usr/bin/forkd"
	workerPath = "/usr/local/bin/forkd-test-worker"
)

// notRun says why the tests can't run, "" where they can.
var notRun string //nolint:gochecknoglobals // TestMain has no other way to tell the tests

func TestMain(m *testing.M) {
	dir := os.Getenv(programs)
	if dir != "" {
		if err := furnish(dir); err != nil {
			fmt.Fprintln(os.Stderr, "cannot prepare the systemd:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, err := boot()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if code != noSystemd {
		os.Exit(code)
	}
	os.Exit(m.Run()) // each test says why it does not run
}

// noSystemd is with-systemd's own exit status, where it could not boot.
const noSystemd = 125

// boot builds the programs and runs this test binary inside.
func boot() (code int, err error) {
	if os.Geteuid() != 0 {
		notRun = "it needs root to boot a systemd"
		return noSystemd, nil
	}
	dir, err := os.MkdirTemp("", "forkd-systemd-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	for name, of := range map[string]string{"forkd": "../../cmd/forkd", "worker": "./worker"} {
		build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, name), of)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("cannot build %s: %w\n%s", name, err, out)
		}
	}
	cmd := exec.Command("../with-systemd", os.Args...) // go test's own -timeout holds in there
	cmd.Env = append(os.Environ(), programs+"="+dir, "WITH_SYSTEMD_NET=private", "WITH_SYSTEMD_TIMEOUT=1200")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = os.Stdout, io.MultiWriter(os.Stderr, &said)
	err = cmd.Run()
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return 0, nil
	case !ended:
		return 0, fmt.Errorf("cannot run with-systemd: %w", err)
	case exit.ExitCode() == noSystemd:
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		notRun = lines[len(lines)-1]
	}
	return exit.ExitCode(), nil
}

// furnish installs forkd as a package would: the binary, the units, an empty
// /etc/forkd.
func furnish(dir string) error {
	for _, key := range []string{"FORKD_RUNTIME_DIR", "XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY", "NOTIFY_SOCKET"} {
		os.Unsetenv(key)
	}
	for from, to := range map[string]string{
		filepath.Join(dir, "forkd"):    forkdPath,
		filepath.Join(dir, "worker"):   workerPath,
		"../../systemd/forkd@.service": unitDir + "/forkd@.service",
		"../../systemd/forkd@.socket":  unitDir + "/forkd@.socket",
	} {
		if err := install(from, to); err != nil {
			return err
		}
	}
	if err := os.MkdirAll("/etc/forkd", 0o755); err != nil {
		return err
	}
	if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot have the units read: %w\n%s", err, out)
	}
	return nil
}

const unitDir = "/etc/systemd/system"

// install copies a file, to be run by anybody if it may be run at all.
func install(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644|info.Mode().Perm()&0o111)
}

// inside skips a test where there is no systemd.
func inside(t *testing.T) {
	t.Helper()
	if notRun != "" {
		t.Skip(notRun)
	}
}
