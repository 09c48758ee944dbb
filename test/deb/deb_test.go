// Package deb_test makes the Debian package, and installs, uses, upgrades, removes and
// purges it by dpkg under a real systemd, on a private copy of this machine's file
// system (test/with-systemd).
package deb_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPackage(t *testing.T) {
	const noSystemd = 125 // with-systemd could not boot one
	if os.Geteuid() != 0 {
		t.Skip("it needs root to boot a systemd")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	made := exec.CommandContext(ctx, "make", "-C", "../..", "deb")
	if out, err := made.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file, err := filepath.Abs("../../bin/forkd.deb")
	if err != nil {
		t.Fatal(err)
	}
	used := exec.CommandContext(ctx, "../with-systemd", "bash", "testdata/lifecycle.sh", file)
	used.Env = append(os.Environ(), "WITH_SYSTEMD_NET=private", "WITH_SYSTEMD_TIMEOUT=900")
	var said bytes.Buffer
	used.Stdout, used.Stderr = &said, &said
	err = used.Run()
	if ended, ok := errors.AsType[*exec.ExitError](err); ok && ended.ExitCode() == noSystemd {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		t.Skip(lines[len(lines)-1])
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	t.Log(said.String())
}
