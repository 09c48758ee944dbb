package worker

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Two deliveries of one request count once: the second is too early to end the worker.
func TestSecondSignal(t *testing.T) {
	first := time.Now()
	for _, test := range []struct {
		first time.Time
		after time.Duration
		want  bool
	}{
		{time.Time{}, time.Hour, false},
		{first, 0, false},
		{first, time.Millisecond, false},
		{first, repeatWindow, true},
		{first, time.Hour, true},
	} {
		if got := isSecond(test.first, first.Add(test.after)); got != test.want {
			t.Errorf("%v after the first: %v", test.after, got)
		}
	}
}

func TestExiting(t *testing.T) {
	if exiting(os.Getpid()) {
		t.Error("this process is said to be ending")
	}
	dead := exec.Command("true")
	if err := dead.Start(); err != nil {
		t.Fatal(err)
	}
	// It has ended when this returns, and is there until it is waited for.
	if err := unix.Waitid(unix.P_PID, dead.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if !exiting(dead.Process.Pid) {
		t.Error("a process that has ended is said to live")
	}
	if err := dead.Wait(); err != nil {
		t.Fatal(err)
	}
	if exiting(dead.Process.Pid) {
		t.Error("a process that is not there is said to be ending")
	}
}
