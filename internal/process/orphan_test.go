package process

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
)

// orphan waits until the process is the only one that was found.
func orphan(t *testing.T, c *Children, pid int) *Orphan {
	t.Helper()
	var found []*Orphan
	eventually(t, "it is an orphan", func() bool {
		found = c.Orphans()
		return len(found) == 1 && found[0].PID == pid
	})
	return found[0]
}

func TestOrphans(t *testing.T) {
	c := newChildren(t)
	if c.Shared() {
		t.Error("it had no children")
	}
	before := start(t, c, shell("echo up; read x"))
	before.line(t)
	w := start(t, c, shell("(setsid sh -c 'echo $$; exec sleep 1000' 2>/dev/null &); read x"))
	after := start(t, c, shell("echo up; read x"))
	after.line(t)
	if oldest := c.OldestStart(); oldest != before.start || before.start > w.start || w.start > after.start {
		t.Errorf("started at %d, %d and %d; the oldest %d", before.start, w.start, after.start, oldest)
	}
	pid := w.pidLine(t)
	o := orphan(t, c, pid)
	pipe, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", w.output.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if want := [2]string{pipe, "/dev/null"}; o.Session != pid || o.Outputs != want || o.Start < w.start || o.StartedAt().IsZero() {
		t.Errorf("got %+v", o)
	}
	if again := orphan(t, c, pid); again != o {
		t.Error("it is another")
	}
	if err := o.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	eventually(t, "it is reaped", func() bool { return state(pid) == "" })
	receive(t, c.OrphanEnded(), "its end")
	if found := c.Orphans(); len(found) != 0 {
		t.Errorf("found %v", found)
	}
	if err := o.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal after its end: %v", err)
	}
	if len(c.orphans) != 0 {
		t.Error("it is remembered")
	}
}

// A process that has left its worker's group, but not its session, is an orphan when the
// worker has ended.
func TestOrphanOfADeadSession(t *testing.T) {
	c := newChildren(t)
	w := start(t, c, shell(`(python3 -c 'import os, signal; os.setpgid(0, 0); print(os.getpid(), flush=True); signal.pause()' &); read x`))
	pid := w.pidLine(t)
	if found := c.Orphans(); len(found) != 0 {
		t.Errorf("found %+v while the worker lives", found[0])
	}
	if _, err := w.input.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	if e := receive(t, w.exited, "the exit"); e.Leftovers {
		t.Errorf("got %+v", e)
	}
	if o := orphan(t, c, pid); o.Session != w.PID() {
		t.Errorf("got %+v", o)
	}
}

// A master with children from before its exec does not know where orphans come from.
func TestOrphansOfOthers(t *testing.T) {
	other, err := os.StartProcess("/bin/sleep", []string{"sleep", "1000"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	c := newChildren(t)
	if !c.Shared() || slices.Contains(c.Adopted(), other.Pid) {
		t.Error("it does not count")
	}
	if err := other.Kill(); err != nil {
		t.Error(err)
	}
	eventually(t, "it is reaped", func() bool { return state(other.Pid) == "" })
	if !c.Shared() {
		t.Error("what it left does not count")
	}
}
