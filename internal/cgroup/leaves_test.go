package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// host makes a root with a group /app of v2, and returns it.
func host(t *testing.T, files map[string]string) (root, group string) {
	t.Helper()
	root = t.TempDir()
	group = filepath.Join(root, "sys/fs/cgroup/app")
	all := map[string]string{
		"proc/self/cgroup":    "0::/app\n",
		"proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
	}
	for name, text := range files {
		all["sys/fs/cgroup/app/"+name] = text
	}
	for name, text := range all {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root, group
}

func TestLeaves(t *testing.T) {
	self := fmt.Sprintln(os.Getpid())
	root, group := host(t, map[string]string{"cgroup.procs": self, "cgroup.controllers": "cpu memory pids\n", "cgroup.subtree_control": ""})
	if err := os.Mkdir(filepath.Join(group, "worker.0.1"), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := NewLeaves(root, "forkd")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := l.Make(3, Limits{Memory: 4096, Tasks: 7})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		filepath.Join(group, "forkd/cgroup.procs"): strings.TrimSpace(self), filepath.Join(group, "cgroup.subtree_control"): "+memory +pids",
		filepath.Join(leaf.dir, "memory.max"): "4096", filepath.Join(leaf.dir, "memory.oom.group"): "1", filepath.Join(leaf.dir, "pids.max"): "7",
	} {
		if got, err := os.ReadFile(file); string(got) != want {
			t.Errorf("%s: %q, %v; want %q", file, got, err, want)
		}
	}
	if !strings.HasPrefix(leaf.Procs(), filepath.Join(group, "worker.3.")) {
		t.Errorf("its processes are in %s", leaf.Procs())
	}
	if len(l.Old) != 1 || l.Old[0].dir != filepath.Join(group, "worker.0.1") {
		t.Errorf("old leaves: %v", l.Old)
	}
	for text, want := range map[string][2]bool{"": {}, "oom 0\noom_kill 0\n": {}, "oom 0\noom_kill 1\n": {true, false}, "max 4\noom 1\noom_kill 2\n": {true, true}} {
		if err := os.WriteFile(filepath.Join(leaf.dir, "memory.events"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if killed, own := leaf.OutOfMemory(); [2]bool{killed, own} != want {
			t.Errorf("%q: %t, %t", text, killed, own)
		}
	}
}

func TestNoLeaves(t *testing.T) {
	self := fmt.Sprintln(os.Getpid())
	for want, files := range map[string]map[string]string{
		"has other processes than this (1, 2)": {"cgroup.procs": "1\n2\n" + self, "cgroup.controllers": "memory pids\n"},
		"has no controller pids":               {"cgroup.procs": self, "cgroup.controllers": "memory\n"},
		"cannot enter a control group":         {"cgroup.controllers": "memory pids\n"},
		"cannot make control groups":           {},
	} {
		root, _ := host(t, files)
		if _, err := NewLeaves(root, "forkd"); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Delegate=yes") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := NewLeaves(t.TempDir(), "forkd"); err == nil {
		t.Error("without cgroups")
	}
}
