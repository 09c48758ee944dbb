package supervisor_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/redisconfig"
)

// behaveAsAgent plays the fleet agent. It says where it is by the host of the report.
func behaveAsAgent(how string) int {
	channel := os.NewFile(redisconfig.AgentChannel, "channel")
	lines := bufio.NewScanner(channel)
	var setup redisconfig.Agent
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &setup) != nil {
		return 4
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	health := control.Redis{State: control.RedisUp, Since: time.Now(), URL: setup.Settings.URL, Host: strconv.Itoa(os.Getpid())}
	line, _ := json.Marshal(map[string]control.Redis{"health": health})
	_, _ = channel.Write(append(line, '\n'))
	if how == "grows" || how == "floods" {
		<-told
	}
	switch how {
	case "grows":
		hoard := make([]byte, 200<<20)
		for i := range hoard {
			hoard[i] = 1
		}
		defer runtime.KeepAlive(hoard)
	case "floods": // says more than fits into a line
		_, _ = channel.WriteString(strings.Repeat("x", 2*redisconfig.AgentLineMax))
	case "deaf":
		select {}
	}
	for lines.Scan() && lines.Text() != redisconfig.AgentLeave {
	}
	return 0
}

// agent returns the pid of the agent that reports.
func (a *app) agent(other int) (pid int) {
	a.t.Helper()
	eventually(a.t, "an agent reports", func() bool {
		app, err := a.status()
		if err != nil || app.Redis == nil || app.Redis.State != control.RedisUp {
			return false
		}
		pid, _ = strconv.Atoi(app.Redis.Host)
		return pid != other
	})
	return pid
}

// An agent that dies, grows or talks nonsense is replaced. That costs the master
// nothing that stays: no descriptor, no thread, no child.
func TestFleetAgentIsReplaced(t *testing.T) {
	cfg := config(t, "pid")
	cfg.Redis.URL = "redis://127.0.0.1:1"
	for how, harm := range map[string]unix.Signal{"is killed": unix.SIGKILL, "grows": unix.SIGUSR1, "floods": unix.SIGUSR1} {
		t.Run(how, func(t *testing.T) {
			a := start(t, cfg, roleAgent+"="+how)
			workers := pids(a.ready(2))
			pid := a.agent(0)
			before := descriptorsOf(t, a.cmd.Process.Pid)
			if err := unix.Kill(pid, harm); err != nil {
				t.Fatal(err)
			}
			pid = a.agent(pid)
			eventually(t, fmt.Sprintf("%d descriptors, as before", before), func() bool {
				return descriptorsOf(t, a.cmd.Process.Pid) <= before+1 // a client that is being answered
			})
			if got := pids(a.ready(2)); fmt.Sprint(got) != fmt.Sprint(workers) {
				t.Errorf("workers %v, %v after the agent was replaced", workers, got)
			}
			a.stop()
			if err := unix.Kill(pid, 0); err == nil {
				t.Error("the agent has outlived its master")
			}
		})
	}
}

// An agent that does not leave delays the stop, but not for long.
func TestFleetAgentThatDoesNotLeaveIsKilled(t *testing.T) {
	cfg := config(t, "pid")
	cfg.Redis.URL = "redis://127.0.0.1:1"
	a := start(t, cfg, roleAgent+"=deaf")
	a.ready(2)
	a.agent(0)
	began := time.Now()
	a.stop()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if !strings.Contains(a.output(), "the fleet agent does not end: it is killed") {
		t.Error("it is not said")
	}
}

func descriptorsOf(t *testing.T, pid int) int {
	t.Helper()
	open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(open) == 0 {
		t.Fatalf("%v: %v", open, err)
	}
	return len(open)
}
