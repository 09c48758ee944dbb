package fleet_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A test that dies takes its servers with it: their guard sees the end of the
// pipe that only the test has had.
func TestHarnessGuard(t *testing.T) {
	if os.Getenv(dyingVariable) != "" {
		fmt.Printf("started %d\n", start(t, options{}).pid)
		panic("as a test does that has a bug")
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHarnessGuard$")
	cmd.Env = append(os.Environ(), dyingVariable+"=yes", "TMPDIR="+t.TempDir())
	out, _ := cmd.Output() // its exit code is that of a panic
	var s server
	_, after, _ := strings.Cut(string(out), "started ")
	if _, err := fmt.Sscan(after, &s.pid); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	until(t, "a server that goes with its test", func() error {
		if s.alive() {
			return fmt.Errorf("process %d lives on", s.pid)
		}
		return nil
	})
}

// dyingVariable makes the test binary start a server and panic.
const dyingVariable = "FLEET_TEST_DIES"
