package supervisor_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/supervisor"
)

// lonely is a user who has no process, with a directory for the run; nil where
// this process is not root, whom no limit binds.
func lonely(t *testing.T) *syscall.Credential {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // others may enter it
		t.Fatal(err)
	}
	t.Setenv("FORKD_RUNTIME_DIR", dir)
	t.Setenv("FORKD_STATE_DIR", t.TempDir())
	if os.Geteuid() != 0 {
		return nil
	}
	id := 200_000 + os.Getpid()
	if err := os.Chown(dir, id, id); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}
}

// limitTasks sets a master's RLIMIT_NPROC, which counts all of its user's: as
// that user, who needs no privilege.
func (a *app) limitTasks(n int) {
	a.t.Helper()
	set := exec.Command("prlimit", fmt.Sprintf("--pid=%d", a.cmd.Process.Pid), fmt.Sprintf("--nproc=%d:", n))
	set.SysProcAttr = &syscall.SysProcAttr{Credential: a.cmd.SysProcAttr.Credential}
	if out, err := set.CombinedOutput(); err != nil {
		a.t.Fatalf("%v: %s", err, out)
	}
}

func sleepers(t *testing.T) supervisor.Config {
	t.Helper()
	cfg := config(t, "")
	cfg.Command, cfg.Directory = []string{"/bin/sleep", "1000"}, "/"
	cfg.Ready.Mode, cfg.Ready.Delay = "delay", time.Millisecond
	return cfg
}

// What comes when the limit on processes is reached is refused in words, and the
// master has the threads that it needs for a hundred who ask at once.
func TestLimitOfProcessesLater(t *testing.T) {
	a := startAs(t, sleepers(t), lonely(t))
	a.ready(2)
	a.limitTasks(1)

	var asking sync.WaitGroup
	for range 60 { // two connections each, for a while: no more than the master takes
		asking.Go(func() {
			if err := a.do(func(c *control.Client) error { _, err := c.Describe(context.Background()); return err }); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	err := a.do(func(c *control.Client) error {
		_, err := c.Scale(context.Background(), control.Scale("+1"))
		return err
	})
	if refused, ok := errors.AsType[*control.Error](err); !ok || refused.Code != http.StatusConflict || !strings.Contains(err.Error(), "cannot run 3 workers") {
		t.Errorf("scaled: %v", err)
	}
	err = a.do(func(c *control.Client) error {
		rolled, err := c.Reload(context.Background(), control.Reload{KeepConfig: true, Wait: true})
		if err == nil && !strings.Contains(rolled.Error, "cannot run 2 workers") {
			t.Errorf("rolled: %+v", rolled)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	err = a.do(func(c *control.Client) error {
		_, err := c.Scale(context.Background(), control.Scale("1"))
		return err
	})
	if err != nil {
		t.Errorf("fewer workers: %v", err)
	}
	eventually(t, "one worker", func() bool {
		app, err := a.status()
		return err == nil && len(pids(app)) == 1 && len(app.Slots) == 1
	})
	const reached = "the limit on processes is reached"
	if err := unix.Kill(a.ready(1).Slots[0].Workers[0].PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a start that fails in words", func() bool {
		app, err := a.status()
		return err == nil && strings.Contains(app.Slots[0].Reason, reached)
	})

	a.limitTasks(10_000)
	a.ready(1)
	a.stop()
}

// Too few processes for the workers, twice over in a roll, and for the threads of the
// master and of the fleet agent, are exit 1 at the start.
func TestLimitOfProcessesAtTheStart(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it needs root to start a master as a user who has no process")
	}
	user := lonely(t)
	for _, test := range []struct {
		redis string
		limit int
		least string // what is asked for; "": it runs
	}{
		{"", 100, ""},
		{"", 50, "5[3-9]|6[0-4]"}, // 53, and what threads the master gets while it counts
		{"redis://127.0.0.1:1", 50, "6[5-9]|7[0-6]"},
	} {
		cfg := sleepers(t)
		cfg.Workers, cfg.Redis.URL = 10, test.redis
		a := startAs(t, cfg, user, taskLimit+"="+strconv.Itoa(test.limit))
		code := 1
		if test.least == "" {
			code = 0
			a.ready(10)
			a.signal(syscall.SIGTERM)
		}
		if got := a.exit(); got != code {
			t.Errorf("redis %q, limit %d: exit code %d, want %d", test.redis, test.limit, got, code)
		}
		want := fmt.Sprintf("forkd: cannot run 10 workers: [0-9]+ more processes and threads may be needed, and the limit on processes of uid %d \\(%d\\) leaves [0-9]+: raise it to at least (%s) \\(TasksMax= or LimitNPROC= in a unit, ulimit -u\\)\n", user.Uid, test.limit, test.least)
		if code != 0 && !regexp.MustCompile("^"+want+"$").MatchString(a.output()) {
			t.Errorf("redis %q, limit %d: got  %swant %s", test.redis, test.limit, a.output(), want)
		}
	}
}

func (a *app) do(ask func(*control.Client) error) error {
	location, err := control.Find(a.name)
	if err != nil {
		return err
	}
	client, err := control.Connect(location)
	if err != nil {
		return err
	}
	defer client.Close()
	return ask(client)
}
