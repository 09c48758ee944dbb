package fleet_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// What the other tests stand on: servers of every kind start, answer, stand
// still, go on and end.
func TestHarnessServer(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "the test")
	for name, o := range map[string]options{
		"tcp":    {},
		"socket": {socket: true},
		"tls":    {secure: ca},
		"acl":    {config: []string{"user default off", "user me on >secret ~* &* +@all"}, user: "me", password: "secret"},
	} {
		s := start(t, o)
		if got := s.do("ECHO", "hello"); got != "hello" {
			t.Errorf("%s: %v", name, got)
		}
		s.pause()
		s.resume()
		if got := s.do("ECHO", "again"); got != "again" {
			t.Errorf("%s: %v", name, got)
		}
		s.end()
		if s.alive() {
			t.Errorf("%s: it lives on", name)
		}
		s.again()
		if got := s.info("server", "process_id"); got != fmt.Sprint(s.pid) {
			t.Errorf("%s: process %s answers, not %d", name, got, s.pid)
		}
	}
}

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

func TestHarnessProxy(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	p := startProxy(t, s)
	ask := func(command ...string) string {
		args := append([]string{"-u", p.url()}, command...)
		out, _ := exec.CommandContext(t.Context(), "redis-cli", args...).CombinedOutput()
		return strings.TrimSpace(string(out))
	}
	if got := ask("ECHO", "hello"); got != "hello" {
		t.Errorf("passed: %q", got)
	}
	p.behave(func(command []string) fate { return fate{lose: command[0] == "INCR"} })
	ask("INCR", "n")
	if got := s.do("GET", "n"); got == "0" || got == nil {
		t.Errorf("a command whose reply is lost was not done: %v", got)
	}
	p.behave(func([]string) fate { return fate{text: "-LOADING not yet\r\n"} })
	if got := ask("GET", "n"); !strings.Contains(got, "LOADING") {
		t.Errorf("answered: %q", got)
	}
}

func TestHarnessGroups(t *testing.T) {
	t.Parallel()
	t.Run("trio", func(t *testing.T) {
		t.Parallel()
		startTrio(t, nil)
	})
	t.Run("six", func(t *testing.T) {
		t.Parallel()
		startSix(t)
	})
}
