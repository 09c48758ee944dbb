package supervisor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing/closingtest"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/supervisor"
)

// The test binary plays all parts: the test itself, the master (with
// roleMaster in its environment), and the workers.
const (
	roleMaster = "FORKD_TEST_MASTER" // the Config as JSON
	roleWorker = "worker"            // os.Args[1]; os.Args[2] is how it behaves
	roleAgent  = "FORKD_TEST_AGENT"  // os.Args[1], and in the master's environment: how its fleet agent behaves
	taskLimit  = "FORKD_TEST_NPROC"  // the master's limit on processes; "": as it is
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == roleWorker {
		os.Exit(behave(os.Args[2]))
	}
	if len(os.Args) > 2 && os.Args[1] == roleAgent {
		os.Exit(behaveAsAgent(os.Args[2]))
	}
	if config, ok := os.LookupEnv(roleMaster); ok {
		os.Exit(master(config))
	}
	os.Exit(m.Run())
}

func master(config string) int {
	runtime.LockOSThread()
	os.Unsetenv(roleMaster)
	var cfg supervisor.Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	if how, ok := os.LookupEnv(roleAgent); ok {
		cfg.FleetAgent = []string{"forkd", roleAgent, how}
	}
	if n, err := strconv.ParseUint(os.Getenv(taskLimit), 10, 64); err == nil {
		if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 3
		}
	}
	err := supervisor.Run(context.Background(), cfg, supervisor.Output{Stdout: os.Stdout, Stderr: os.Stderr})
	var usage *supervisor.UsageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "forkd:", err)
		return 2
	default:
		fmt.Fprintln(os.Stderr, "forkd:", err)
		return 1
	}
}

// behave is a worker's life. Each begins by printing what the tests look for.
func behave(how string) int {
	switch how {
	case "report": // says what it was given, then serves nobody
		report()
		notifyReady(os.Getenv(ipc.EnvNotifySocket))
		waitForTerm()
	case "children": // leaves a child that ignores TERM, and dies
		child := exec.Command("sh", "-c", `trap "" TERM; echo child $$; while :; do sleep 1; done`)
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			return 4
		}
		notifyReady(os.Getenv(ipc.EnvNotifySocket))
		waitForTerm()
	case "late": // is ready when it is told to be
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGUSR1)
		fmt.Println("pid", os.Getpid())
		<-told
		notifyReady(os.Getenv(ipc.EnvNotifySocket))
		waitForTerm()
	case "lingers": // os.Args[3] never reads
		if err := sendLingering(os.Args[3]); err != nil {
			fmt.Println("cannot send:", err)
			return 4
		}
	case "pid":
		fmt.Println("pid", os.Getpid())
		notifyReady(os.Getenv(ipc.EnvNotifySocket))
		waitForTerm()
	}
	return 0
}

func report() {
	for _, key := range []string{
		ipc.EnvListenFDs, ipc.EnvListenFDNames, ipc.EnvSlot, ipc.EnvSlots, ipc.EnvGeneration, ipc.EnvApp,
		ipc.EnvChannelFD, ipc.EnvPageFD, ipc.EnvNodeAppInstance, ipc.EnvMaxConnections, "WATCHDOG_USEC", "EINHORN_FDS", "FORKD_REDIS_URL", "FORKD_RUNTIME_DIR", "EXPANDED",
	} {
		if value, ok := os.LookupEnv(key); ok {
			fmt.Printf("%s=%s\n", key, value)
		}
	}
	if os.Getenv(ipc.EnvListenPID) == strconv.Itoa(os.Getpid()) {
		fmt.Println("LISTEN_PID is mine")
	}
	if syscall.Getpgrp() == os.Getpid() {
		fmt.Println("leads its group")
	}
	fmt.Println("args", os.Args[3:])
}

func waitForTerm() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
}

func notifyReady(path string) {
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		fmt.Println("cannot notify:", err)
		return
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "READY=1"); err != nil {
		fmt.Println("cannot notify:", err)
	}
}

// sendLingering leaves what holds close(2) up with the master, wherever it can,
// says that it is ready, and dies. Once: the next worker of the slot serves.
func sendLingering(silent string) error {
	marker, err := os.OpenFile("sent", os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		notifyReady(os.Getenv(ipc.EnvNotifySocket))
		waitForTerm()
		return nil
	}
	marker.Close()
	notify, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(notify, &unix.SockaddrUnix{Name: os.Getenv(ipc.EnvNotifySocket)}); err != nil {
		return err
	}
	channel, err := strconv.Atoi(os.Getenv(ipc.EnvChannelFD))
	if err != nil {
		return err
	}
	for range 4 {
		if err := closingtest.Send(notify, 1, "READY=1", silent); err != nil {
			return err
		}
		// The kernel refuses it, where it can.
		if err := closingtest.Send(channel, 1, "1\n", silent); err != nil && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return nil
}

// app is a master under test, in a process of its own.
type app struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	ended chan error

	mu  sync.Mutex
	out bytes.Buffer
}

func (a *app) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.Write(p)
}

func (a *app) output() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.String()
}

// config is a Config for tests: the test binary as the worker, ready when it
// says so, quick to give up.
func config(t *testing.T, how string, args ...string) supervisor.Config {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := supervisor.Defaults()
	cfg.Name = "app"
	cfg.Command = append([]string{self, roleWorker, how}, args...)
	cfg.Directory = t.TempDir()
	cfg.Workers = 2
	cfg.Listeners = []supervisor.Listener{{Name: "http", Network: "tcp4", Host: "127.0.0.1", Balance: "hash", Backlog: 64, Nonblocking: true}}
	cfg.Ready.Mode = "notify"
	cfg.Ready.Timeout = time.Minute
	cfg.Update.Monitor = 100 * time.Millisecond
	cfg.Drain.Timeout = 2 * time.Second
	return cfg
}

// start runs a master and checks at the end that it left nothing behind.
func start(t *testing.T, cfg supervisor.Config, env ...string) *app {
	t.Helper()
	t.Setenv("FORKD_RUNTIME_DIR", t.TempDir())
	t.Setenv("FORKD_STATE_DIR", t.TempDir())
	return startAs(t, cfg, nil, env...)
}

// startAs starts a master as another user, where there is one, in the
// FORKD_RUNTIME_DIR that is set.
func startAs(t *testing.T, cfg supervisor.Config, user *syscall.Credential, env ...string) *app {
	t.Helper()
	encoded, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	// Others can't enter the directory of a test binary.
	a := &app{t: t, name: cfg.Name, cmd: exec.Command("/proc/self/exe"), ended: make(chan error, 1)}
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	a.cmd.Env = append(append(os.Environ(), roleMaster+"="+string(encoded)), env...)
	a.cmd.Env = append(a.cmd.Env, "GORACE=atexit_sleep_ms=0") // else each process takes a second to end
	a.cmd.Stdout, a.cmd.Stderr = a, a
	a.cmd.WaitDelay = time.Minute
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { a.ended <- a.cmd.Wait() }()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the master said:\n%s", a.output())
		}
		_ = a.cmd.Process.Kill()
	})
	return a
}

// eventually waits for a condition, a minute at most.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		// Nothing tells this process of what another does: it looks again.
		_, _ = unix.Poll(nil, 5)
	}
}

func (a *app) status() (control.App, error) {
	location, err := control.Find(a.name)
	if err != nil {
		return control.App{}, err
	}
	client, err := control.Connect(location)
	if err != nil {
		return control.App{}, err
	}
	defer client.Close()
	return client.Status(context.Background())
}

func (a *app) ready(n int) control.App {
	a.t.Helper()
	var app control.App
	eventually(a.t, fmt.Sprintf("%d workers ready", n), func() bool {
		var err error
		app, err = a.status()
		return err == nil && app.Totals.Ready == n && app.Roll == nil
	})
	return app
}

func (a *app) signal(sig syscall.Signal) {
	a.t.Helper()
	if err := a.cmd.Process.Signal(sig); err != nil {
		a.t.Fatal(err)
	}
}

// exit waits for the master's end and returns its exit code.
func (a *app) exit() int {
	a.t.Helper()
	select {
	case <-a.ended:
	case <-time.After(time.Minute):
		a.t.Fatal("the master does not end")
	}
	left, err := filepath.Glob(filepath.Join(os.Getenv("FORKD_RUNTIME_DIR"), "*"))
	if err != nil || len(left) > 0 {
		a.t.Errorf("left behind: %v, %v", left, err)
	}
	return a.cmd.ProcessState.ExitCode()
}

// stop stops the master, which has to say that nothing failed.
func (a *app) stop() {
	a.t.Helper()
	a.signal(syscall.SIGTERM)
	if code := a.exit(); code != 0 {
		a.t.Errorf("exit code %d, want 0", code)
	}
}

func pids(app control.App) []int {
	var all []int
	for _, s := range app.Slots {
		for _, w := range s.Workers {
			all = append(all, w.PID)
		}
	}
	slices.Sort(all)
	return all
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestWorkerGetsWhatTheContractSays(t *testing.T) {
	cfg := config(t, "report", "--port={port}", "{fd:admin}", "{slot}/{generation}", "{{}")
	cfg.Listeners = append(cfg.Listeners, supervisor.Listener{Name: "admin", Network: "tcp4", Host: "127.0.0.1", Balance: "source", Backlog: 64})
	cfg.Env = map[string]string{"EXPANDED": "{fd};{slot}"}
	cfg.Redis.MaxConnections = 5
	a := start(t, cfg, "WATCHDOG_USEC=1", "EINHORN_FDS=3", "LISTEN_FDS=7", "FORKD_SLOT=99", "NOTIFY_SOCKET=", "FORKD_REDIS_URL=redis://:hunter2@localhost")
	app := a.ready(2)
	port := app.Listeners[0].Address[strings.LastIndex(app.Listeners[0].Address, ":")+1:]
	for _, want := range []string{
		"app.1 | LISTEN_FDS=2", "app.1 | LISTEN_FDNAMES=http:admin", "app.1 | LISTEN_PID is mine", "app.1 | leads its group",
		"app.1 | FORKD_SLOT=1", "app.1 | FORKD_SLOTS=2", "app.1 | FORKD_GENERATION=1", "app.1 | FORKD_APP=app",
		"app.1 | FORKD_CHANNEL_FD=5", "app.1 | FORKD_PAGE_FD=6", "app.1 | NODE_APP_INSTANCE=1",
		"app.0 | FORKD_MAX_CONNECTIONS=3", "app.1 | FORKD_MAX_CONNECTIONS=2", "app.1 | EXPANDED=3;1",
		"app.1 | args [--port=" + port + " 4 1/1 {}]",
	} {
		eventually(t, want, func() bool { return strings.Contains(a.output(), want+"\n") })
	}
	for _, leak := range []string{"WATCHDOG_USEC", "EINHORN_FDS", "FORKD_REDIS_URL", "FORKD_RUNTIME_DIR"} {
		if strings.Contains(a.output(), leak) {
			t.Errorf("%s has leaked through", leak)
		}
	}
	a.stop()
}

func TestRollReplacesEveryWorkerAndLeaksNothing(t *testing.T) {
	a := start(t, config(t, "pid"))
	before := pids(a.ready(2))
	open := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", a.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	roll := func(generation int) control.App {
		a.signal(syscall.SIGUSR2)
		var app control.App
		eventually(t, fmt.Sprintf("generation %d", generation), func() bool {
			var err error
			app, err = a.status()
			return err == nil && app.Generation == generation && app.Roll == nil && len(pids(app)) == 2
		})
		return app
	}
	after := pids(roll(2))
	for _, pid := range before {
		if slices.Contains(after, pid) {
			t.Errorf("worker %d of the first generation is still there", pid)
		}
		eventually(t, fmt.Sprintf("the end of worker %d", pid), func() bool { return !alive(pid) }) // it is reaped after it is gone
	}
	descriptors := open()
	for generation := 3; generation <= 10; generation++ {
		roll(generation)
	}
	// The connection that asks for the status may be closing still.
	eventually(t, fmt.Sprintf("%d descriptors again", descriptors), func() bool { return open() <= descriptors })
	a.stop()
}

func TestWhatADeadWorkerLeavesIsEnded(t *testing.T) {
	cfg := config(t, "children")
	cfg.Workers = 1
	cfg.Drain.Timeout = time.Hour
	a := start(t, cfg)
	worker := pids(a.ready(1))[0]
	child := func(nth int) (pid int) {
		t.Helper()
		eventually(t, "the child", func() bool {
			said := strings.Split(a.output(), "app.0 | child ")
			if len(said) <= nth {
				return false
			}
			_, err := fmt.Sscan(said[nth], &pid)
			return err == nil
		})
		return pid
	}
	first := child(1)
	if err := syscall.Kill(worker, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a successor", func() bool {
		app, err := a.status()
		return err == nil && app.Totals.Ready == 1 && pids(app)[0] != worker
	})
	if !alive(first) {
		t.Error("the child ignores TERM and was not given its time")
	}
	end := func(pid int) {
		t.Helper()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	end(first)
	eventually(t, "the end of the child, and of its leader's zombie", func() bool { return !alive(first) && !alive(worker) })
	end(child(2))
	a.stop()
}

// What a worker has sent along to the master would hold each close(2) of it for an
// hour. Where the successor's fork is the last to close it, that start is given up after
// 30 s, and the next one follows.
func TestMasterIsNotHeldByWhatAWorkerSends(t *testing.T) {
	cfg := config(t, "lingers", closingtest.Silent(t))
	cfg.Workers = 1
	a := start(t, cfg)
	eventually(t, "a successor", func() bool {
		app, err := a.status()
		return err == nil && app.Totals.Restarts >= 1 && app.Totals.Ready == 1
	})
	a.stop()
}

func TestReadyFromAStrangerDoesNotCount(t *testing.T) {
	cfg := config(t, "late")
	cfg.Workers = 1
	a := start(t, cfg)
	var app control.App
	eventually(t, "a worker", func() bool {
		var err error
		app, err = a.status()
		return err == nil && len(pids(app)) == 1
	})
	sockets, err := filepath.Glob(filepath.Join(os.Getenv("FORKD_RUNTIME_DIR"), "app", "notify.*"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("notify sockets %v, %v", sockets, err)
	}
	stranger := exec.Command("/usr/bin/python3", "-c", `
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(sys.argv[1])
os.setuid(65534)
s.send(b"READY=1")`, sockets[0])
	if out, err := stranger.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	notifyReady(sockets[0]) // from the right user, and none of the worker's processes
	eventually(t, "the stranger to be ignored", func() bool { return strings.Contains(a.output(), "notify message ignored") })
	// The worker's own follows: when that counts, the others have been read.
	eventually(t, "the worker to run", func() bool { return strings.Contains(a.output(), "pid ") })
	if app, err = a.status(); err != nil || app.Totals.Ready != 0 {
		t.Fatalf("ready %d, %v: a stranger's word counts", app.Totals.Ready, err)
	}
	if err := syscall.Kill(pids(app)[0], syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	a.ready(1)
	a.stop()
	if n := strings.Count(a.output(), `why="said READY=1"`); n != 1 { // the log comes beside the status
		t.Errorf("ready %d times, want once", n)
	}
}
