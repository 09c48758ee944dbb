// Package machine runs a test's script on a private copy of this machine: its file system,
// a systemd and a network of its own (test/with-systemd).
package machine

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// noSystemd is with-systemd's own exit status, where it could not boot.
const noSystemd = 125

// Run runs bash with these words, in the test's directory, for at most 15 minutes, and
// returns what it has printed. env is added to the environment. The test fails if bash does,
// and is skipped where no systemd can be booted.
func Run(t *testing.T, env []string, words ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it needs root to boot a systemd")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "../with-systemd", append([]string{"bash"}, words...)...)
	cmd.Env = append(append(os.Environ(), "WITH_SYSTEMD_NET=private", "WITH_SYSTEMD_TIMEOUT=900"), env...)
	out, err := cmd.CombinedOutput()
	if ended, ok := errors.AsType[*exec.ExitError](err); ok && ended.ExitCode() == noSystemd {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Skip(lines[len(lines)-1])
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}
