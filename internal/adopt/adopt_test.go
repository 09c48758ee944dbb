package adopt

import (
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/pool"
)

// Watch reports what was found at the start, then each end, then returns.
func TestWatch(t *testing.T) {
	s := &Leftovers{KillAt: time.Now()}
	for i := range 2 {
		cmd := exec.CommandContext(t.Context(), "sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Wait() }()
		fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.found = append(s.found, &Leftover{ID: pool.ID{Attempt: i}, PID: cmd.Process.Pid, pidfd: fd})
	}
	if !s.Alive() {
		t.Error("none is alive")
	}
	var found, ended []*Leftover
	err := s.Watch(func(f, e []*Leftover) bool {
		found, ended = append(found, f...), append(ended, e...)
		if next := len(ended); next < len(found) {
			if err := found[next].Signal(unix.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		return true
	})
	if err != nil || len(found) != 2 || len(ended) != 2 || ended[0] != found[0] || ended[1] != found[1] {
		t.Errorf("found %v, ended %v, %v", found, ended, err)
	}
	if s.Alive() {
		t.Error("one is alive")
	}
	for _, l := range found {
		l.Close()
	}
}
