package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/test/ports"
)

// TestMain makes the test binary forkd itself, and the programs that scripts run
// under forkd.
func TestMain(m *testing.M) {
	// What a dead master forgets comes to this process, where it is seen.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "cannot become a subreaper:", err)
		os.Exit(1)
	}
	testscript.Main(m, map[string]func(){
		"forkd":            main,
		"fetch":            fetch,
		"in-terminal":      inTerminal,
		"load":             loadHTTP,
		"stranger":         stranger,
		"talk":             talkWebSocket,
		"without-seccomp":  withoutSeccomp,
		"worker-all":       workerAll,
		"worker-binds":     workerBinds,
		"worker-busy":      workerBusy,
		"worker-elsewhere": workerElsewhere,
		"worker-family":    workerFamily,
		"worker-flood":     workerFlood,
		"worker-harm":      workerHarm,
		"worker-http":      workerHTTP,
		"worker-plain":     workerPlain,
		"worker-stubborn":  workerStubborn,
		"worker-tough":     workerTough,
	})
}

// TestScript runs testdata/script/*.txtar, one behaviour each. Beside
// testscript's own commands a script has
//
//	adopt                         the test reaps the masters that forkd start has left running
//	expand FILE TEMPLATE          writes the template with the script's variables replaced
//	freeport VAR...               sets VAR to a port that nobody listens on; VAR+N: nor on the N after it
//	keepsto FILE [DEFINITION]     the file's JSON keeps to docs/status.schema.json, or to a definition there
//	memory APP MIB                the master has never used more memory than that
//	pids APP VAR...               sets VARs to the pids of the slots' newest workers
//	recipe FILE NAME OLD NEW...   writes a recipe of docs/balancers.md
//	signal APP[/SLOT] SIGNAL      signals the master, or the slot's newest worker
//	storm APP N SIGNAL...         signals the master N times, by turns, at once
//	tinyfs DIR OPTION...          makes DIR a tmpfs with mount options (size=, nr_inodes=)
//	waitfor ready APP             every wanted worker is ready
//	waitfor gone APP              no master has the name
//	waitfor reaped APP            no child of the master is a zombie
//	waitfor dead PID              there is no such process, not even as a zombie
//	waitfor status APP REGEXP     forkd status --json, on one line, matches
//	waitfor events APP REGEXP     forkd events, whole, matches
//	waitfor get URL REGEXP        the answer's status and body match
//	waitfor file PATH REGEXP      the file's text matches
//	waitfor redis PORT            a Redis answers there
//
// and the variables APP, a name that no other script uses, and
// FORKD_RUNTIME_DIR, its own. At its end no process, no file under
// FORKD_RUNTIME_DIR and no zombie may be left. The condition [root] is for what
// an ordinary user can't do.
func TestScript(t *testing.T) {
	h := &harness{orphans: map[int]string{}}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			dir := filepath.Join(env.WorkDir, "run")
			env.Setenv("FORKD_RUNTIME_DIR", dir)
			env.Setenv("FORKD_STATE_DIR", filepath.Join(env.WorkDir, "state"))
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command takes a second to end
			env.Setenv("APP", fmt.Sprintf("t%d-%d", os.Getpid(), h.apps.Add(1)))
			env.Defer(func() { h.leftBehind(env, dir) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"adopt":     h.adopt,
			"expand":    expand,
			"fakehosts": fakeHosts,
			"freeport":  h.freeport,
			"keepsto":   keepsTo,
			"memory":    memory,
			"pids":      pids,
			"recipe":    recipe,
			"signal":    h.signal,
			"storm":     storm,
			"tinyfs":    tinyFS,
			"waitfor":   waitFor,
		},
		Condition: func(condition string) (bool, error) {
			switch condition {
			case "root":
				return os.Geteuid() == 0, nil
			case "autogroup": // sched(7)
				_, err := os.Stat("/proc/self/autogroup")
				return err == nil, nil
			}
			return false, fmt.Errorf("there is no condition %s", condition)
		},
	})
}

// harness is what the scripts share: they run side by side.
type harness struct {
	apps   atomic.Int32 // names given out
	failed atomic.Bool  // a script has

	// orphans are the processes of masters that a script has killed, by the
	// script's directory: nobody else is there to reap them.
	mu      sync.Mutex
	orphans map[int]string
}

// scriptTimeout bounds every waitfor; the race detector and a busy machine
// make things slow.
const scriptTimeout = 60 * time.Second

// fakeHosts reports hosts that do not exist to the Redis of FORKD_REDIS_URL, once,
// for a minute's interval: sim-00000 and on.
func fakeHosts(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: fakehosts APP HOSTS WORKERS")
	}
	hosts, err := strconv.Atoi(args[1])
	ts.Check(err)
	workers, err := strconv.Atoi(args[2])
	ts.Check(err)
	o, err := redis.ParseURL(ts.Getenv("FORKD_REDIS_URL"))
	ts.Check(err)
	client := redis.NewClient(o)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	now := time.Now()
	ts.Check(client.ZAdd(ctx, "forkd:apps", redis.Z{Score: float64(now.Add(time.Hour).UnixMilli()), Member: args[0]}).Err())
	status := control.App{State: control.StateReady, Generation: 1}
	for i := range workers {
		status.Slots = append(status.Slots, control.Slot{Slot: i, State: control.StateReady, Workers: []control.Worker{{
			PID: 1000 + i, Generation: 1, State: control.StateReady, Connections: new(int64(40)), Accepted: new(int64(100)), Requests: new(int64(1200)),
			Refused: new(int64(0)), Queue: new(int64(0)), CPUPercent: new(12.5), RSSBytes: new(int64(50 << 20)),
		}}})
	}
	status.Totals = control.Sum(status.Slots)
	for i := range hosts {
		s := fleet.Settings{HostID: fmt.Sprintf("sim-%05d", i), Interval: time.Minute, ConnectionLimit: 200}
		up := control.Event{Seq: 1, Time: now, Host: s.HostID, Type: control.EventUp, Reason: "fake"}
		keys, values := fleet.Heartbeat(s, fleet.App{Name: args[0], Boot: "b", StartedAt: now}, status, 1, []control.Event{up})
		ts.Check(fleet.HeartbeatScript().Run(ctx, client, keys, values...).Err())
	}
}

func (h *harness) freeport(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: freeport VAR...")
	}
	for _, arg := range args {
		name, count, _ := strings.Cut(arg, "+")
		n, _ := strconv.Atoi(count) // 0 without one
		port, release, err := ports.Take(n + 1)
		ts.Check(err)
		ts.Defer(release)
		ts.Setenv(name, strconv.Itoa(port))
	}
}

// found connects to a script's app.
func found(ts *testscript.TestScript, app string) (*control.Client, error) {
	at, err := control.Find(filepath.Join(ts.Getenv("FORKD_RUNTIME_DIR"), app))
	if err != nil {
		return nil, err
	}
	return control.Connect(at)
}

// observe is the app's status now.
func observe(ts *testscript.TestScript, app string) (control.App, error) {
	client, err := found(ts, app)
	if err != nil {
		return control.App{}, err
	}
	defer client.Close()
	return client.Status(context.Background()) // it has a timeout of its own
}

func (h *harness) signal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: signal APP[/SLOT] SIGNAL")
	}
	sig := unix.SignalNum("SIG" + strings.TrimPrefix(args[1], "SIG"))
	if sig == 0 {
		ts.Fatalf("there is no signal %s", args[1])
	}
	app, slot, ofWorker := strings.Cut(args[0], "/")
	client, err := found(ts, app)
	ts.Check(err)
	defer client.Close()
	pid := client.PID()
	if ofWorker {
		k, err := strconv.Atoi(slot)
		ts.Check(err)
		status, err := observe(ts, app)
		ts.Check(err)
		if k >= len(status.Slots) || len(status.Slots[k].Workers) == 0 {
			ts.Fatalf("%s has no worker in slot %s", app, slot)
		}
		workers := status.Slots[k].Workers
		pid = workers[len(workers)-1].PID
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	ts.Check(err)
	defer unix.Close(pidfd)
	if sig == unix.SIGKILL && !ofWorker {
		ts.Check(unix.PidfdSendSignal(pidfd, unix.SIGSTOP, nil, 0)) // it starts nobody any more
		h.noteOrphans(ts, func(all []process) bool {
			return slices.ContainsFunc(all, func(p process) bool { return p.pid == pid && p.stopped })
		})
	}
	ts.Check(unix.PidfdSendSignal(pidfd, sig, nil, 0))
}

func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: waitfor ready|gone|reaped APP, waitfor dead PID, waitfor redis PORT, waitfor status APP REGEXP, waitfor events APP REGEXP, waitfor forkd ARGS REGEXP, waitfor get URL REGEXP, waitfor file PATH REGEXP")
	}
	what, of := args[0], args[1]
	var pattern *regexp.Regexp
	if len(args) == 3 {
		var err error
		pattern, err = regexp.Compile("(?s)" + args[2])
		ts.Check(err)
	}
	look, ok := map[string]func() (bool, string){
		"ready": func() (bool, string) {
			app, err := observe(ts, of)
			return err == nil && app.AllReady(), fmt.Sprintf("%+v %v", app, err)
		},
		"gone": func() (bool, string) {
			client, err := found(ts, of)
			if err != nil {
				_, gone := errors.AsType[*control.NoAppError](err)
				return gone, err.Error()
			}
			client.Close()
			return false, "it lives"
		},
		"reaped": func() (bool, string) { return reaped(ts, of) },
		"dead": func() (bool, string) {
			_, err := os.Stat(filepath.Join("/proc", of))
			return errors.Is(err, os.ErrNotExist), fmt.Sprint(err)
		},
		"redis": func() (bool, string) { return pong("127.0.0.1:" + of) },
		"status": func() (bool, string) {
			app, err := observe(ts, of)
			if err != nil {
				return false, err.Error()
			}
			text, err := json.Marshal(app)
			return err == nil && pattern.Match(text), string(text)
		},
		"events": func() (bool, string) {
			text, err := happened(ts, of)
			return err == nil && pattern.MatchString(text), fmt.Sprint(text, err)
		},
		"forkd": func() (bool, string) {
			err := ts.Exec("forkd", strings.Fields(of)...)
			text := ts.ReadFile("stdout")
			return err == nil && pattern.MatchString(text), text + ts.ReadFile("stderr")
		},
		"get": func() (bool, string) {
			text := get(of)
			return pattern.MatchString(text), text
		},
		"file": func() (bool, string) {
			data, err := os.ReadFile(ts.MkAbs(of))
			return err == nil && pattern.Match(data), string(data)
		},
	}[what]
	if !ok || (pattern != nil) != slices.Contains([]string{"status", "events", "forkd", "get", "file"}, what) {
		ts.Fatalf("cannot wait for %s", strings.Join(args, " "))
	}
	seen := ""
	for deadline := time.Now().Add(scriptTimeout); time.Now().Before(deadline); time.Sleep(25 * time.Millisecond) {
		if ok, seen = look(); ok {
			return
		}
	}
	ts.Fatalf("waited %v in vain for %s; last seen: %s", scriptTimeout, strings.Join(args, " "), seen)
}

// get is one request on a connection of its own, which may be lost on a worker
// that does not serve: its status and body, or what
// went wrong.
func get(url string) string {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return response.Status + "\n" + string(body)
}
