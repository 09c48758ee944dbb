package process

import (
	"errors"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (w *worker) pidLine(t *testing.T) int {
	t.Helper()
	line := w.line(t)
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatalf("no pid: %q", line)
	}
	return pid
}

func TestExits(t *testing.T) {
	c := newChildren(t)
	for script, want := range map[string]string{
		"exit 0":                      "exit status 0",
		"exit 3":                      "exit status 3",
		"kill -KILL $$":               "killed by SIGKILL",
		"ulimit -c 0; kill -SEGV $$":  "killed by SIGSEGV",
		"kill -40 $$":                 "killed by signal 40",
		"sh -c 'sleep 0' & wait":      "exit status 0", // a group that is gone before its leader
		"exec sh -c 'kill -TERM $$'":  "killed by SIGTERM",
		"kill -STOP $$; exit 7":       "exit status 7", // a stop is no end
		"trap '' TERM; exit 9; sleep": "exit status 9",
	} {
		before := time.Now()
		w := start(t, c, shell(script))
		if strings.Contains(script, "STOP") {
			eventually(t, "it stops", func() bool { return state(w.PID()) == "T" })
			if err := w.Signal(syscall.SIGCONT); err != nil {
				t.Error(err)
			}
		}
		e := receive(t, w.exited, script)
		if e.String() != want || e.Leftovers || e.At.Before(before) {
			t.Errorf("%s: got %v (%+v), want %s", script, e, e, want)
		}
		receive(t, w.gone, "the reaping")
		if rested := time.Since(e.At); rested < reapRest {
			t.Errorf("%s: reaped after %v, while the kernel may still be ending it", script, rested)
		}
		if err := w.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("a signal after the end: %v", err)
		}
		if err := w.SignalGroup(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("a signal to the group after the end: %v", err)
		}
	}
	if got := (Exit{Code: -1, Signal: syscall.SIGABRT, Core: true}).String(); got != "killed by SIGABRT (core dumped)" {
		t.Errorf("got %s", got)
	}
}

// A late Watch gets its callback too.
func TestWatchAfterTheEnd(t *testing.T) {
	c := newChildren(t)
	spec := shell("exit 4")
	spec.Files = []int{0, 1, 2}
	p, err := c.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	receive(t, p.gone, "the reaping")
	exited := make(chan Exit, 2)
	p.Watch(func(e Exit) { exited <- e }, func() { t.Error("a group that was empty has ended") })
	if e := receive(t, exited, "the exit"); e.Code != 4 {
		t.Errorf("got %v", e)
	}
}

func TestGroupOutlivesItsLeader(t *testing.T) {
	c := newChildren(t)
	w := start(t, c, shell("sleep 1000 & echo $!; sleep 1000 & echo $!; exit 5"))
	children := []int{w.pidLine(t), w.pidLine(t)}
	e := receive(t, w.exited, "the exit")
	if e.Code != 5 || !e.Leftovers {
		t.Fatalf("got %+v", e)
	}
	if got := state(w.PID()); got != "Z" {
		t.Errorf("the leader's state is %q, it must stay a zombie", got)
	}
	if err := w.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal to a dead leader: %v", err)
	}

	// Meanwhile others start and end.
	if e := receive(t, start(t, c, shell("exit 6")).exited, "another's exit"); e.Code != 6 || e.Leftovers {
		t.Errorf("another ended with %+v", e)
	}
	foreign := start(t, c, shell("setsid sh -c 'echo $$; exec sleep 1001' & sleep 1000"))
	pid := foreign.pidLine(t)
	if err := foreign.SignalGroup(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	receive(t, foreign.gone, "its reaping")
	eventually(t, "the foreign child is adopted", func() bool { return slices.Equal(c.Adopted(), []int{pid}) })
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the foreign child is reaped", func() bool { return state(pid) == "" })

	// One of two gone: not yet.
	if err := unix.Kill(children[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first is reaped", func() bool { return state(children[0]) == "" })
	select {
	case <-w.groupEnded:
		t.Fatal("the group has ended, says the reaper")
	default:
	}
	if err := w.SignalGroup(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	receive(t, w.groupEnded, "the group's end")
	for _, pid := range append(children, w.PID()) {
		eventually(t, "no zombie", func() bool { return state(pid) == "" })
	}
	if n := childCount(); n != 0 {
		t.Errorf("%d children left", n)
	}
	if len(w.exited) != 0 || len(w.groupEnded) != 0 {
		t.Error("called twice")
	}
}

// A member of the group with a living parent in another group is no child of this
// process: only /proc shows it, and its end sends no SIGCHLD.
func TestGroupMemberWithAParentElsewhere(t *testing.T) {
	c := newChildren(t)
	w := start(t, c, shell(`sh -c 'sleep 1000 & echo $!; exec setsid sh -c "echo \$\$; exec sleep 1001"' & read x; exit 0`))
	member, parent := w.pidLine(t), w.pidLine(t)
	if _, err := w.input.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	if e := receive(t, w.exited, "the exit"); !e.Leftovers {
		t.Fatalf("got %+v", e)
	}
	if got := c.Adopted(); !slices.Equal(got, []int{parent}) {
		t.Errorf("adopted %v, want %d", got, parent)
	}
	if err := w.SignalGroup(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	receive(t, w.groupEnded, "the group's end")
	if got := state(member); got != "Z" && got != "" { // as its parent likes
		t.Errorf("the member's state is %q", got)
	}
	if n := c.KillAdopted(syscall.SIGKILL); n != 1 {
		t.Errorf("%d adopted", n)
	}
	for _, pid := range []int{member, parent} {
		eventually(t, "reaped", func() bool { return state(pid) == "" })
	}
}

// All processes are listed for a dead leader's group only if there is an orphan, whose child
// a member may be.
func TestNobodyToSearchFor(t *testing.T) {
	c := newChildren(t)
	start(t, c, shell("read x"))
	listed := func() (listed bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		const nobodys = math.MaxInt32
		if c.groupLives(nobodys, func() []int { listed = true; return nil }) {
			t.Error("a group that never was lives")
		}
		return listed
	}
	if listed() {
		t.Error("listed for a worker alone")
	}
	w := start(t, c, shell("setsid sleep 1000 & read x"))
	if _, err := w.input.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	receive(t, w.exited, "the exit")
	if !listed() {
		t.Error("not listed, although there is an orphan")
	}
}

func TestForeignChildren(t *testing.T) {
	c := newChildren(t)
	w := start(t, c, shell("(setsid sh -c 'echo $$; (sleep 1000 & echo $!; wait)' &); read x; exit 0"))
	daemon, child := w.pidLine(t), w.pidLine(t)
	if _, err := w.input.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	if e := receive(t, w.exited, "the exit"); e.Leftovers {
		t.Errorf("a daemon in a session of its own counts as left over")
	}
	eventually(t, "the daemon is adopted", func() bool { return slices.Equal(c.Adopted(), []int{daemon}) })
	eventually(t, "all strangers killed", func() bool { return c.KillAdopted(syscall.SIGKILL) == 0 })
	for _, pid := range []int{daemon, child} {
		eventually(t, "reaped", func() bool { return state(pid) == "" })
	}
}

// As PID 1 the master reaps all processes.
func TestAsPID1(t *testing.T) {
	c := newChildren(t)
	worker := shell(`for i in 1 2 3; do (setsid sh -c '(sleep 0 &)' &); done
		echo $PPID; while ps -eo ppid,stat | grep -Eq ' 1 (Z|.*sleep)'; do :; done; echo none; exit 3`)
	worker.Files = []int{0, 1, 2}
	inner := master(t, job{Spec: worker}, nil)
	got := start(t, c, Spec{
		Path: "/usr/bin/unshare", Umask: -1, Env: inner.Env, Files: []int{int(inner.File.Fd())},
		Args: []string{"unshare", "--pid", "--fork", "--mount-proc", "/proc/self/fd/3", "master"},
	}).rest(t)
	lines := strings.Split(got, "\n")
	slices.Sort(lines)
	if want := []string{"1", "exit status 3", "none", "worker "}; len(lines) != 4 || !strings.HasPrefix(lines[3], want[3]) || !slices.Equal(lines[:3], want[:3]) {
		t.Errorf("got %q, want %q", lines, want)
	}
}

// A stopped worker handles the stop signal too.
func TestSignalToTheStopped(t *testing.T) {
	c := newChildren(t)
	for name, send := range map[string]func(*worker) error{
		"leader": func(w *worker) error { return w.Signal(syscall.SIGTERM) },
		"group":  func(w *worker) error { return w.SignalGroup(syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, c, shell(`trap 'exit 5' TERM; echo up; read x`))
			w.line(t)
			if err := unix.Kill(-w.PID(), unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it stops", func() bool { return state(w.PID()) == "T" })
			if err := send(w); err != nil {
				t.Fatal(err)
			}
			if e := receive(t, w.exited, "the exit"); e.Code != 5 || e.Leftovers {
				t.Errorf("got %+v", e)
			}
		})
	}
}

// Who sends a signal, as the master's loop, does not wait for a fork, which can take long on a
// busy machine, nor for a sweep.
func TestSignalWaitsForNobody(t *testing.T) {
	c := newChildren(t)
	w := start(t, c, shell("trap '' TERM; echo up; read x"))
	w.line(t)
	c.mu.Lock() // as a fork does
	sent := make(chan error)
	go func() { sent <- errors.Join(w.Signal(syscall.SIGTERM), w.SignalGroup(syscall.SIGKILL)) }()
	select {
	case err := <-sent:
		c.mu.Unlock()
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		c.mu.Unlock()
		t.Fatal("the signal waits for the fork", <-sent)
	}
	if e := receive(t, w.exited, "the exit"); e.Signal != syscall.SIGKILL {
		t.Errorf("got %+v", e)
	}
}

// The end of a traced leader is noticed, and it is reaped when the tracer releases it.
func TestTracedLeader(t *testing.T) {
	c := newChildren(t)
	w := start(t, c, shell("echo up; read x"))
	w.line(t)
	const seize = `import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(0x4206, int(sys.argv[1]), None, None):
    sys.exit("cannot trace: %d" % ctypes.get_errno())
print("traces", flush=True)
sys.stdin.readline()`
	tracer := start(t, c, Spec{
		Path: "/usr/bin/python3", Umask: -1, Env: []string{"PATH=/usr/bin:/bin"},
		Args: []string{"python3", "-c", seize, strconv.Itoa(w.PID())},
	})
	if got := tracer.line(t); got != "traces" {
		t.Fatal(got)
	}
	if err := w.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it dies", func() bool { return state(w.PID()) == "Z" })
	c.Inspect()
	if e := receive(t, w.exited, "the exit"); !e.Traced || !e.Leftovers {
		t.Errorf("got %+v", e)
	}
	if _, err := tracer.input.WriteString("let go\n"); err != nil {
		t.Fatal(err)
	}
	receive(t, w.gone, "the reaping")
}

// An exit tells what the leader and the children that it has waited for have used.
func TestExitTellsProcessorTime(t *testing.T) {
	c := newChildren(t)
	const burn = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
	for script, least := range map[string]time.Duration{
		"exit 0":                     0,
		burn:                         20 * time.Millisecond,
		"(" + burn + "); exit 3":     20 * time.Millisecond,
		"(" + burn + "); kill -9 $$": 20 * time.Millisecond,
	} {
		began := time.Now()
		w := start(t, c, shell(script))
		e := receive(t, w.exited, script)
		if e.CPU < least || e.CPU > time.Since(began) {
			t.Errorf("%s: %v", script, e.CPU)
		}
	}
}

// With no descriptor allowed at all poll(2) fails (EINVAL): that is no worker's end.
func TestNobodyEndsByALimit(t *testing.T) {
	var before unix.Rlimit
	c := newChildren(t)
	w := start(t, c, shell("read line"))
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: before.Max}, nil); err != nil {
		t.Fatal(err)
	}
	ended := HasEnded(w.handle)
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &before, nil); err != nil {
		t.Fatal(err)
	}
	if ended {
		t.Error("a worker that lives has ended")
	}
}
