package process

import (
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

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
	c := newChildren(t)
	const nobody = 1 << 30
	pids := []int{nobody, os.Getpid()}
	var workers []*worker
	for range 2 {
		spec := shell(`exec 3<&0; python3 -c "$WORK" <&3 & wait`)
		spec.Env = append(spec.Env, "WORK="+work)
		w := start(t, c, spec)
		w.line(t)
		workers, pids = append(workers, w), append(pids, w.PID())
	}
	got := Sample(pids)
	if _, known := got[nobody]; known || len(got) != 3 {
		t.Errorf("figures of nobody: %v", got)
	}
	for _, w := range workers {
		f := got[w.PID()]
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
	w := start(t, newChildren(t), shell("echo up; read x; (i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done); echo done; read x; exit 0"))
	w.line(t)
	before := Sample([]int{w.PID()})[w.PID()]
	if _, err := io.WriteString(w.input, "\n"); err != nil {
		t.Fatal(err)
	}
	w.line(t)
	if used := Sample([]int{w.PID()})[w.PID()].CPUSince(before); used < 0.03 {
		t.Errorf("%v s", used)
	}
}

func TestSampleOfTheStopped(t *testing.T) {
	w := start(t, newChildren(t), shell("read x; exit 0"))
	if f := Sample([]int{w.PID()})[w.PID()]; f.Stopped {
		t.Error("it is said to be stopped")
	}
	if err := w.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is said to be stopped", func() bool { return Sample([]int{w.PID()})[w.PID()].Stopped })
}

// However little of a CPU the busy one gets: it waits for one all the time.
func TestDemand(t *testing.T) {
	c := newChildren(t)
	busy, idle := start(t, c, shell("while :; do :; done & wait")), start(t, c, shell("sleep 1000 & wait"))
	eventually(t, "the busy one wants more", func() bool {
		b, known := Demand(busy.PID())
		i, known2 := Demand(idle.PID())
		return known && known2 && b > 500*time.Millisecond && i < b/5
	})
	if d, known := Demand(1 << 30); d != 0 || known {
		t.Errorf("of nobody: %v %t", d, known)
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
