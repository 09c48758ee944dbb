package usage

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// worker is a shell that leads a session. Whatever it starts ends with its input.
type worker struct {
	t      *testing.T
	pid    int
	input  io.WriteCloser
	output *bufio.Reader
}

func start(t *testing.T, script string, env ...string) *worker {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Env = append(cmd.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		input.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &worker{t, cmd.Process.Pid, input, bufio.NewReader(output)}
}

func (w *worker) line() {
	w.t.Helper()
	if line, err := w.output.ReadString('\n'); err != nil {
		w.t.Fatalf("after %q: %v", line, err)
	}
}

// The leader sleeps, and what it has started, which leads a group of its own, works
// and holds memory.
func TestSample(t *testing.T) {
	const work = `
import os, sys
os.setpgid(0, 0)
held = b"x" * (50 << 20)
while os.times().user < 0.1: pass
print("done", flush=True)
sys.stdin.read()`
	began := time.Now()
	var workers []*worker
	for range 2 {
		workers = append(workers, start(t, `exec 3<&0; python3 -c "$WORK" <&3 & wait`, "WORK="+work))
	}
	dead := exec.Command("/bin/true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	pids := []int{dead.Process.Pid, os.Getpid()}
	for _, w := range workers {
		w.line()
		pids = append(pids, w.pid)
	}
	got := Sample(pids)
	if _, known := got[dead.Process.Pid]; known || len(got) != 3 {
		t.Errorf("figures of the dead: %v", got)
	}
	for _, w := range workers {
		f := got[w.pid]
		if cpu := f.CPUSince(Figures{}); cpu < 0.1 || cpu > time.Since(began).Seconds() || f.RSS < 50<<20 || f.RSS > 100<<20 {
			t.Errorf("%v s, %+v", cpu, f)
		}
	}
	again := Sample([]int{os.Getpid()})
	if len(again) != 1 || again[os.Getpid()].CPUSince(got[os.Getpid()]) < 0 {
		t.Errorf("then %v", again)
	}
}

// A child that lives for less than the time between two looks counts too, where
// somebody waits for it.
func TestSampleOfShortLives(t *testing.T) {
	w := start(t, "echo up; read x; (i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done); echo done; read x; exit 0")
	w.line()
	before := Sample([]int{w.pid})[w.pid]
	if _, err := io.WriteString(w.input, "\n"); err != nil {
		t.Fatal(err)
	}
	w.line()
	if used := Sample([]int{w.pid})[w.pid].CPUSince(before); used < 0.03 {
		t.Errorf("%v s", used)
	}
}

func TestSampleOfTheStopped(t *testing.T) {
	w := start(t, "read x; exit 0")
	if err := syscall.Kill(w.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(w.pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("%v, status %#x", err, status)
	}
	if f := Sample([]int{w.pid})[w.pid]; !f.Stopped {
		t.Error("it is not said to be stopped")
	}
	if err := syscall.Kill(w.pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

func TestCPUSince(t *testing.T) {
	start := time.Now()
	cores := float64(runtime.NumCPU())
	for name, c := range map[string]struct{ before, after, want float64 }{
		"nothing happens":                   {15, 15, 0},
		"it works":                          {15, 15.75, 0.75},
		"one has ended, and nobody waited":  {15, 12, 0},
		"it has waited for a daemon of old": {15, 10015, cores},
	} {
		after := Figures{CPU: c.after, At: start.Add(time.Second)}
		if got := after.CPUSince(Figures{CPU: c.before, At: start}); got != c.want {
			t.Errorf("%s: %v s, want %v", name, got, c.want)
		}
		if got := after.CPUSince(Figures{}); got != c.after {
			t.Errorf("%s, since its start: %v s", name, got)
		}
	}
}

// BenchmarkSample reads 200 workers.
func BenchmarkSample(b *testing.B) {
	const most = 12 * time.Millisecond
	pids := make([]int, 200)
	for i := range pids {
		cmd := exec.Command("/bin/sleep", "1000")
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		pids[i] = cmd.Process.Pid
	}
	for b.Loop() {
		if n := len(Sample(pids)); n != len(pids) {
			b.Fatalf("%d of %d", n, len(pids))
		}
	}
	if each := b.Elapsed() / time.Duration(b.N); each > most {
		b.Errorf("%v for %d processes, more than %v", each, len(pids), most)
	}
}
