package process

import (
	"os"
	"runtime"
	"testing"
	"time"
)

// The leader sleeps, and what it has started, which leads a group of its own, works
// and holds memory.
func TestSample(t *testing.T) {
	c := newChildren(t)
	const work = `
import os, signal
os.setpgid(0, 0)
held = b"x" * (50 << 20)
while os.times().user < 0.1: pass
print("done", flush=True)
signal.pause()`
	var workers []*worker
	for range 2 {
		w := shell(`python3 -c "$WORK" & wait`)
		w.Env = append(w.Env, "WORK="+work)
		workers = append(workers, start(t, c, w))
	}
	dead := start(t, c, shell("exit 0"))
	receive(t, dead.gone, "the reaping")
	pids := []int{dead.PID(), os.Getpid()}
	for _, w := range workers {
		w.line(t)
		pids = append(pids, w.PID())
	}
	got := Sample(pids)
	if _, known := got[dead.PID()]; known || len(got) != 3 {
		t.Errorf("figures of the dead: %v", got)
	}
	for _, w := range workers {
		f := got[w.PID()]
		if cpu := f.CPUSince(Figures{}); cpu < 0.1 || cpu > patience.Seconds() || f.RSS < 50<<20 || f.RSS > 100<<20 {
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
	c := newChildren(t)
	w := start(t, c, shell("echo up; read x; (i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done); echo done; read x"))
	w.line(t)
	before := Sample([]int{w.PID()})[w.PID()]
	if _, err := w.input.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	w.line(t)
	if used := Sample([]int{w.PID()})[w.PID()].CPUSince(before); used < 0.03 {
		t.Errorf("%v s", used)
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
	c := newChildren(b)
	pids := make([]int, 200)
	for i := range pids {
		p, err := c.Start(Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Umask: -1})
		if err != nil {
			b.Fatal(err)
		}
		defer p.Signal(9)
		pids[i] = p.PID()
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
