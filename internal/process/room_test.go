package process

import (
	"os"
	"path/filepath"
	"testing"
)

// lonely is a user who has no process.
func lonely() *Credential {
	id := uint32(200_000 + os.Getpid())
	return &Credential{UID: id, GID: id}
}

// At the limit on processes a start fails with an explanation, and the master lives: it
// has its threads already.
func TestLimitOfProcesses(t *testing.T) {
	c := newChildren(t)
	const want = "cannot start /bin/sh: " + noRoom
	none := master(t, job{Prepare: []string{"room for none"}, Spec: shell("echo runs")}, lonely())
	if got := start(t, c, none).rest(t); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	waiting := shell("read line")
	waiting.User = lonely()
	start(t, c, waiting)
	as := shell("echo runs")
	as.User = lonely()
	spec := master(t, job{Prepare: []string{"no user's limit"}, Spec: as}, nil)
	if got, want := start(t, c, spec).rest(t), "cannot execute /bin/sh: "+noRoom; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestGroupRoom(t *testing.T) {
	for name, test := range map[string]struct {
		groups string
		files  map[string]string
		want   Room
	}{
		"nothing known": {want: unlimited()},
		"v2, no limit":  {"0::/a\n", map[string]string{"a/pids.max": "max\n", "a/pids.current": "7\n"}, unlimited()},
		"v2":            {"0::/a\n", map[string]string{"a/pids.max": "40\n", "a/pids.current": "7\n"}, Room{33, 40, "a/pids.max"}},
		"v2, tighter above": {"0::/a/b\n", map[string]string{
			"a/pids.max": "50\n", "a/pids.current": "49\n", "a/b/pids.max": "40\n", "a/b/pids.current": "7\n",
		}, Room{1, 50, "a/pids.max"}},
		"v2, more than allowed": {"0::/a\n", map[string]string{"a/pids.max": "4\n", "a/pids.current": "7\n"}, Room{-3, 4, "a/pids.max"}},
		"v1":                    {"8:pids:/a\n0::/\n", map[string]string{"pids/a/pids.max": "40\n", "pids/a/pids.current": "7\n"}, Room{33, 40, "pids/a/pids.max"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			place := func(path, text string) {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			place("proc/self/mountinfo", "30 20 0:26 / /group rw - cgroup2 cgroup2 rw\n31 20 0:27 / /group/pids rw - cgroup cgroup rw,pids\n")
			place("proc/self/cgroup", test.groups)
			for path, text := range test.files {
				place(filepath.Join("group", path), text)
			}
			if test.want.Of != "" {
				test.want.Of = filepath.Join(root, "group", test.want.Of)
			}
			if got := GroupRoom(root); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
