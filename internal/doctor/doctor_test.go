package doctor

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const asked = "FORKD_TEST_DOCTOR"

// TestMain is also the process that looks, with fewer privileges than the test.
func TestMain(m *testing.M) {
	if os.Getenv(asked) == "" {
		os.Exit(m.Run())
	}
	limit := unix.Rlimit{Cur: 100, Max: 100}
	if err := errors.Join(unix.Setrlimit(unix.RLIMIT_NOFILE, &limit), json.NewEncoder(os.Stdout).Encode(Look(os.Geteuid()+1))); err != nil {
		panic(err)
	}
	os.Exit(0)
}

// A process without privileges, in a network namespace of its own where the test is root,
// is told what it lacks.
func TestWithoutPrivileges(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := t.TempDir() + "/doctor"
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := program; dir != os.TempDir() && dir != "/"; dir = dir[:strings.LastIndex(dir, "/")] {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), asked+"=1", "FORKD_RUNTIME_DIR=/proc/nowhere", "FORKD_STATE_DIR=/proc/nowhere")
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, Cloneflags: unix.CLONE_NEWNET}
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []Finding
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&all); err != nil {
		t.Fatal(err)
	}
	got := map[string]Result{}
	for _, f := range all {
		got[f.Check] = f.Result
		if (f.Result == Allowed) != (f.Change == "") || f.Text == "" {
			t.Errorf("%s: %+v", f.Check, f)
		}
	}
	want := map[string]Result{
		"kernel": Allowed, "capture": Fallback, "ready": Fallback, "steering": Allowed, "counting": Fallback,
		"users": Missing, "files": Fallback, "directory": Missing, "history": Fallback,
	}
	for check, result := range want {
		if got[check] != result {
			t.Errorf("%s is %s, want %s", check, got[check], result)
		}
	}
	if !Stops(all) {
		t.Error("an app could run without a runtime directory")
	}
}
