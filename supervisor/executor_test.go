package supervisor

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/internal/workerlink"
)

// A worker's end is the OOM killer's where it was SIGKILL, not sent by the master,
// and the cgroup has counted a kill.
func TestEndByTheOOMKiller(t *testing.T) {
	for name, c := range map[string]struct {
		sig     syscall.Signal
		ordered bool // the master has killed it
		counted string
		want    string
	}{
		"by the OOM killer": {syscall.SIGKILL, false, "oom_kill 1\n", "killed by the OOM killer"},
		"by somebody":       {syscall.SIGKILL, false, "oom_kill 0\n", "killed by SIGKILL"},
		"by the master":     {syscall.SIGKILL, true, "oom_kill 1\n", "killed by SIGKILL"},
		"by another signal": {syscall.SIGTERM, false, "oom_kill 1\n", "killed by SIGTERM"},
	} {
		root := t.TempDir()
		write := func(name, text string) {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("proc/self/cgroup", "0::/app\n")
		write("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
		write("sys/fs/cgroup/app/memory.events", "oom_kill 0\n")
		e := &executor{oom: process.NewOOMKills(root), daemons: newDaemons(), sockets: new(sockets.Set), past: map[int]past{}}
		write("sys/fs/cgroup/app/memory.events", c.counted)
		link, err := workerlink.Open(workerlink.Config{Dir: t.TempDir(), Name: "notify", UID: -1, GID: -1, Closer: new(closing.Closer)})
		if err != nil {
			t.Fatal(err)
		}
		w := &worker{link: link, killed: c.ordered}
		ev := e.exited(exited{worker: w, exit: process.Exit{At: time.Now(), Code: -1, Signal: c.sig}}, time.Now())
		if got := ev.(pool.Exited).Exit; got.Words != c.want || got.Signal != int(c.sig) || got.OOM != (name == "by the OOM killer") {
			t.Errorf("%s: got %+v, want %q", name, got, c.want)
		}
	}
}
