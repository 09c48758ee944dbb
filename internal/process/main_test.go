package process

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// patience bounds every wait of these tests.
const patience = 60 * time.Second

// masterJob in the environment makes the test binary a master of one worker: a
// *job as JSON.
const masterJob = "PROCESS_TEST_MASTER"

func TestMain(m *testing.M) {
	if text := os.Getenv(lookJob); text != "" {
		os.Exit(beLooking(text))
	}
	if text := os.Getenv(masterJob); text != "" {
		os.Exit(beMaster(text))
	}
	os.Exit(m.Run())
}

// job is what a master of one worker does.
type job struct {
	Prepare []string // names in preparations
	Spec    Spec
	Open    string // becomes Spec.File
	Stay    bool   // until killed, not until the worker's end
}

// preparations change the master before it forks, on the thread that does.
//
//nolint:gochecknoglobals // a fixed table
var preparations = map[string]func() error{
	"ignore signals": func() error {
		ignore := signalAction{1} // SIG_IGN
		for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGPIPE, unix.SIGTSTP, unix.SIGUSR1, 40} {
			if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&ignore)), 0, signalsSize, 0, 0); errno != 0 {
				return errno
			}
		}
		return nil
	},
	"block signals": func() error {
		return unix.PthreadSigmask(unix.SIG_BLOCK, &unix.Sigset_t{Val: [16]uint64{1<<(unix.SIGTERM-1) | 1<<(unix.SIGUSR2-1)}}, nil)
	},
	"ambient capability": func() error {
		held, err := capabilities()
		if err != nil {
			return err
		}
		held[0].Inheritable |= 1 << unix.CAP_NET_BIND_SERVICE
		header := capabilityHeader()
		if err := unix.Capset(&header, &held[0]); err != nil {
			return err
		}
		return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_NET_BIND_SERVICE, 0, 0)
	},
	"captured": func() error { // bind(2) and listen(2) of this program are captured already
		flags, filter, errno := captureFlags()
		if errno != 0 {
			return errno
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program))); errno != 0 {
			return errno
		}
		return nil
	},
	"keep capabilities": func() error {
		const noSetuidFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP
		return unix.Prctl(unix.PR_SET_SECUREBITS, noSetuidFixup, 0, 0, 0)
	},
	"root that changes no user": func() error {
		held, err := capabilities()
		if err != nil {
			return err
		}
		header := capabilityHeader()
		held[0].Effective &^= 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID
		return unix.Capset(&header, &held[0])
	},
	"room for none": func() error { // for a master whose user has nothing else
		StartThreads()
		limit := uint64(Threads())
		return unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: limit, Max: limit})
	},
	"no user's limit": func() error { return unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 0, Max: 0}) },
	"oom score":       func() error { return os.WriteFile("/proc/self/oom_score_adj", []byte("300"), 0) },
	"stray descriptors": func() error {
		for range 5 {
			if _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); err != nil { // no O_CLOEXEC
				return err
			}
		}
		return nil
	},
}

// beMaster prints the worker's pid, or why there is none, and its exit.
func beMaster(text string) int {
	runtime.LockOSThread()
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		fmt.Println("master:", err)
		return 2
	}
	for _, name := range j.Prepare {
		if err := preparations[name](); err != nil {
			fmt.Printf("master: cannot prepare %s: %v\n", name, err)
			return 2
		}
	}
	if j.Open != "" {
		file, err := os.Open(j.Open)
		if err != nil {
			fmt.Println("master:", err)
			return 2
		}
		j.Spec.File = file
	}
	c := New()
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		defer stop()
		p, err := c.Start(j.Spec)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("worker", p.PID())
		if j.Spec.Capture {
			listener, why := p.Capture()
			fmt.Println("captured", listener >= 0, why)
		}
		exited := make(chan Exit, 1)
		p.Watch(func(e Exit) { exited <- e }, func() {})
		fmt.Println(<-exited)
		if j.Stay {
			select {}
		}
	}()
	c.Serve(ctx)
	c.Close()
	return 0
}

// master is the Spec of a master that does j, as user.
func master(t *testing.T, j job, user *Credential) Spec {
	t.Helper()
	text, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Open("/proc/self/exe") // others can't enter the directory of a test binary
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { self.Close() })
	return Spec{
		Path: "/proc/self/exe", File: self, Args: []string{"master"},
		Env: []string{masterJob + "=" + string(text), "GORACE=atexit_sleep_ms=0"}, Umask: -1, User: user,
	}
}

// newChildren starts Children for one test.
func newChildren(t testing.TB) *Children {
	c := New()
	ctx, stop := context.WithCancel(context.Background())
	go c.Serve(ctx)
	t.Cleanup(func() {
		stop()
		<-c.served
		for c.KillAdopted(syscall.SIGKILL) > 0 {
			runtime.Gosched()
		}
		c.Close()
	})
	return c
}

// worker is a started Process and its callbacks' results.
type worker struct {
	*Process
	output     *os.File // of its stdout and stderr
	input      *os.File // to its stdin
	exited     chan Exit
	groupEnded chan struct{}
}

// start runs spec with pipes as 0, 1 and 2, before spec.Files.
func start(t testing.TB, c *Children, spec Spec) *worker {
	t.Helper()
	w, err := tryStart(t, c, spec)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func tryStart(t testing.TB, c *Children, spec Spec) (*worker, error) {
	t.Helper()
	stdin, input := pipe(t)
	output, stdout := pipe(t)
	spec.Files = append([]int{int(stdin.Fd()), int(stdout.Fd()), int(stdout.Fd())}, spec.Files...)
	p, err := c.Start(spec)
	stdin.Close()
	stdout.Close()
	if err != nil {
		return nil, err
	}
	w := &worker{Process: p, output: output, input: input, exited: make(chan Exit, 2), groupEnded: make(chan struct{}, 2)}
	p.Watch(func(e Exit) { w.exited <- e }, func() { w.groupEnded <- struct{}{} })
	t.Cleanup(func() {
		if err := p.SignalGroup(syscall.SIGKILL); err == nil {
			receive(t, p.gone, "the worker's end")
		}
	})
	if err := output.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return w, nil
}

func shell(script string) Spec {
	return Spec{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Umask: -1}
}

func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// line reads one line of the worker's output.
func (w *worker) line(t testing.TB) string {
	t.Helper()
	var line []byte
	for one := make([]byte, 1); ; {
		if _, err := io.ReadFull(w.output, one); err != nil {
			t.Fatalf("after %q: %v", line, err)
		}
		if one[0] == '\n' {
			return string(line)
		}
		line = append(line, one[0])
	}
}

// rest reads the worker's output to its end.
func (w *worker) rest(t *testing.T) string {
	t.Helper()
	all, err := io.ReadAll(w.output)
	if err != nil {
		t.Fatalf("after %q: %v", all, err)
	}
	return string(bytes.TrimSpace(all))
}

func receive[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		t.Fatalf("no news of %s", what)
		panic("unreachable")
	}
}

// eventually polls a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// state is the state letter of a process in /proc, "" where there is none.
func state(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))[0]
}

// childCount counts those of this process, dead or alive.
func childCount() (n int) {
	for _, pid := range procfs.PIDs() {
		if isReapable(pid) || hasLivingChild(unix.P_PID, pid) {
			n++
		}
	}
	return n
}
