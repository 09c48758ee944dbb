package worker_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/httpserve"
	"github.com/forkd/forkd/worker/internal/servetest"
)

// helperEnv makes the test binary be the worker that the tests here start.
const helperEnv = "WORKER_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperEnv) {
	case "":
		// Descriptors that were open before are no leak of the worker's.
		if err := unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	case "worker":
		helper()
	case "parent":
		parent()
	case "successor":
		successor()
	}
}

// found is what a helper sees of itself once it serves.
type found struct {
	PID, Procs int
	Addr       string
	Private    []string // variables that a child of it would take for its own
	Leaking    []string // descriptors that a child of it would get
}

// helper is a worker: it prints what it found, serves, and ends its output with
// what Serve returned.
func helper() {
	// As the master's child does between fork and exec.
	if os.Getenv(ipc.EnvListenFDs) != "" {
		os.Setenv(ipc.EnvListenPID, strconv.Itoa(os.Getpid()))
	}
	w := worker.New()
	ln, err := w.Listen("http", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	f := found{PID: os.Getpid(), Procs: runtime.GOMAXPROCS(0), Addr: ln.Addr().String()}
	for _, pair := range os.Environ() {
		key, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(key, "LISTEN_") || strings.HasSuffix(key, "_FD") {
			f.Private = append(f.Private, key)
		}
	}
	for fd := 3; fd < 64; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			what, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			f.Leaking = append(f.Leaking, fmt.Sprint(fd, " ", what))
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(f)
	told := make(chan struct{})
	go func() {
		<-w.Draining()
		fmt.Println("draining", w.Reason())
		close(told)
	}()
	err = httpserve.Serve(w, &http.Server{Handler: http.NotFoundHandler()}, ln)
	<-told
	fmt.Println("served", err)
}

// parent starts a worker that is signalled when this process dies, tells its pid
// and waits to be killed.
func parent() {
	runtime.LockOSThread() // the parent-death signal is this thread's
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"=worker")
	cmd.Stdout = os.Stdout
	cmd.ExtraFiles = []*os.File{os.NewFile(3, "channel"), os.NewFile(4, "page")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	// The worker alone holds these from now on.
	cmd.ExtraFiles[0].Close()
	cmd.ExtraFiles[1].Close()
	_ = cmd.Wait()
}

// process is a helper that was started.
type process struct {
	*exec.Cmd
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
	found
}

func spawn(t *testing.T, role string, files []*os.File, env ...string) *process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), append(env, helperEnv+"="+role)...)
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: cmd, t: t, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := p.out.ReadString('\n')
	if err != nil || json.Unmarshal([]byte(line), &p.found) != nil {
		t.Fatalf("the worker began with %q, %v", line, err)
	}
	return p
}

// says fails the test unless want is the next line of output.
func (p *process) says(want string) {
	p.t.Helper()
	if line, err := p.out.ReadString('\n'); strings.TrimSpace(line) != want {
		p.t.Fatalf("the worker printed %q, %v; want %q", line, err, want)
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// signalAgain sends a signal over and over: the first that comes late enough after
// the one before it ends the process.
func (p *process) signalAgain(s os.Signal) {
	go func() {
		for p.Process.Signal(s) == nil {
			time.Sleep(50 * time.Millisecond)
		}
	}()
}

// ends waits for the end of the output, and then of the process.
func (p *process) ends(want string) {
	p.t.Helper()
	if rest, err := io.ReadAll(p.out); err != nil || len(rest) > 0 {
		p.t.Errorf("the worker printed %q, %v", rest, err)
	}
	_ = p.Wait()
	if got := p.ProcessState.String(); got != want {
		p.t.Errorf("the worker ended with %s, want %s", got, want)
	}
}

// hold opens a connection to the worker that stays within a request, so that
// only its deadline or a signal ends a drain.
func (p *process) hold() {
	p.t.Helper()
	c, err := net.Dial("tcp", p.Addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	// The answer says that the worker has this connection.
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		p.t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		p.t.Fatal(err)
	}
	r.Body.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\n"); err != nil {
		p.t.Fatal(err)
	}
}

func TestAloneEndsOnSIGTERM(t *testing.T) {
	t.Parallel()
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := spawn(t, "worker", nil)
		r, err := http.Get("http://" + p.Addr)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusNotFound {
			t.Error(r.Status)
		}
		p.signal(s)
		p.says("draining stop")
		p.says("served <nil>")
		p.ends("exit status 0")
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	p := spawn(t, "worker", nil)
	p.hold()
	p.signal(syscall.SIGINT)
	p.says("draining stop")
	p.signalAgain(syscall.SIGTERM)
	p.ends("signal: terminated")
}

// A worker uses what was passed to it, and its children do not inherit it.
func TestInherits(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := servetest.NewMaster(t)
	p := spawn(t, "worker", []*os.File{f, m.Channel, m.Page},
		"LISTEN_FDS=1", "LISTEN_FDNAMES=http", "FORKD_CHANNEL_FD=4", "FORKD_PAGE_FD=5", "FORKD_SLOTS=1024", "FORKD_SLOT=0")
	m.Expect(ipc.Hello{Version: 1, Handoff: true})
	m.Expect(ipc.Ready{})
	want := found{PID: p.Process.Pid, Procs: 1, Addr: ln.Addr().String()}
	if diff := cmp.Diff(want, p.found); diff != "" {
		t.Error(diff)
	}
	c, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	m.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 1, Passed: true, Requests: 1})

	// As the master does it: the message first, then the signal, which is no
	// second one. The socket lives on in the master.
	m.Drain(ipc.ReasonRoll, servetest.Timeout, 0)
	p.signal(syscall.SIGTERM)
	p.says("draining roll")
	c.Close()
	p.says("served <nil>")
	p.ends("exit status 0")
	again, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatalf("the socket died with its worker: %v", err)
	}
	again.Close()
}

// Signals that follow a drain message do not count as second ones, as a stop during a
// roll; others do.
func TestAnnouncedSignals(t *testing.T) {
	t.Parallel()
	m := servetest.NewMaster(t)
	p := spawn(t, "worker", []*os.File{m.Channel, m.Page}, "FORKD_CHANNEL_FD=3", "FORKD_PAGE_FD=4")
	p.hold()
	m.Expect(ipc.Hello{Version: 1, Handoff: true})
	m.Expect(ipc.Ready{})
	m.Drain(ipc.ReasonRoll, time.Hour, 0)
	p.signal(syscall.SIGTERM)
	p.says("draining roll")
	m.Drain(ipc.ReasonStop, time.Second, 0)
	p.signal(syscall.SIGTERM)
	p.says("served cannot finish by the deadline of the drain: cut 1 connections in use")
	p.ends("exit status 0")
}

func TestUnannouncedSignals(t *testing.T) {
	t.Parallel()
	m := servetest.NewMaster(t)
	p := spawn(t, "worker", []*os.File{m.Channel, m.Page}, "FORKD_CHANNEL_FD=3", "FORKD_PAGE_FD=4")
	p.hold()
	p.signal(syscall.SIGTERM)
	p.says("draining stop")
	p.signalAgain(syscall.SIGTERM)
	p.ends("signal: terminated")
}

// The parent-death signal is no second signal: a worker that drains goes on when
// its master is killed.
func TestMasterKilledDuringDrain(t *testing.T) {
	t.Parallel()
	m := servetest.NewMaster(t)
	p := spawn(t, "parent", []*os.File{m.Channel, m.Page}, "FORKD_CHANNEL_FD=3", "FORKD_PAGE_FD=4")
	p.hold()
	m.Drain(ipc.ReasonRoll, 1500*time.Millisecond, 0)
	if err := unix.Kill(p.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.says("draining roll")
	p.signal(os.Kill)
	p.says("served cannot finish by the deadline of the drain: cut 1 connections in use")
	if rest, err := io.ReadAll(p.out); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}
