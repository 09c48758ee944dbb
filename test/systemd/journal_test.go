package systemd_test

import (
	"strings"
	"testing"
)

// The journal gets a crash as a warning, with the worker's slot as a field, and none of
// another slot; forkd logs has it too.
func TestCrashIsAWarningInTheJournal(t *testing.T) {
	a := newApp(t, settings{})
	a.start()
	s, err := a.status()
	if err != nil {
		t.Fatal(err)
	}
	killed := s.Slots[1].Workers[0].PID
	kill(t, killed)
	a.eventually("slot 1 is back", func() (bool, string) {
		s, err := a.status()
		return err == nil && len(s.Slots[1].Workers) == 1 && s.Slots[1].Workers[0].PID != killed, ""
	})
	a.must("journalctl", "--sync")
	const ended = "gone slot 1 generation 1 "
	for _, filter := range []string{"--unit=" + a.unit, "FORKD_APP=" + a.name, "FORKD_SLOT=1"} {
		if text := a.must("journalctl", "--no-pager", "--output=cat", "--priority=warning", filter); !strings.Contains(text, ended) || !strings.Contains(text, "killed by SIGKILL") {
			t.Errorf("%s: the warnings are %q", filter, text)
		}
	}
	if text, _ := a.run("journalctl", "--no-pager", "--output=cat", "--priority=warning", "FORKD_APP="+a.name, "FORKD_SLOT=0"); strings.Contains(text, ended) {
		t.Errorf("of slot 0: %q", text)
	}
	if text := a.must(forkdPath, "logs", a.name, "--slot", "1", "-n", "100"); !strings.Contains(text, ended) {
		t.Errorf("forkd logs has %q", text)
	}
}
