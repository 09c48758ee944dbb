package process

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// oomRoot is a root directory with the files of a process in the group /app, in
// version 2 or 1, and a function that sets its count.
func oomRoot(t *testing.T, v2 bool) (root string, set func(n int)) {
	t.Helper()
	root = t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	group, mount, file, format := "4:memory:/app\n0::/app\n", "cgroup cgroup rw,memory", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill %d\n"
	if v2 {
		group, mount, file, format = "0::/app\n", "cgroup2 cgroup2 rw", "memory.events", "low 0\noom 9\noom_kill %d\noom_group_kill 0\n"
	}
	write("proc/self/cgroup", group)
	write("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - "+mount+"\n")
	set = func(n int) { write("sys/fs/cgroup/app/"+file, fmt.Sprintf(format, n)) }
	set(3)
	return root, set
}

func TestOOMKills(t *testing.T) {
	for _, v2 := range []bool{true, false} {
		root, set := oomRoot(t, v2)
		o := NewOOMKills(root)
		now := time.Now()
		took := func(want bool, what string) {
			t.Helper()
			if got := o.Took(now); got != want {
				t.Errorf("v2 %v, %s: %v, want %v", v2, what, got, want)
			}
		}
		took(false, "of before the start")
		set(4)
		took(true, "one killed")
		took(false, "another, by somebody else")
		set(6)
		o.Look(now)
		now = now.Add(time.Second)
		took(true, "the first of two at once")
		took(true, "the second")
		took(false, "a third")
		set(7)
		o.Look(now)
		now = now.Add(oomDelay + time.Second)
		took(false, "one long after another process was killed")
	}
	nowhere := NewOOMKills(t.TempDir())
	if nowhere.Look(time.Now()); nowhere.Took(time.Now()) {
		t.Error("killed where nothing can be known")
	}
}
