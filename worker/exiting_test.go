package worker

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

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
