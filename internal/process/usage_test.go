package process

import (
	"os"
	"testing"
	"time"
)

func TestSample(t *testing.T) {
	c := newChildren(t)
	busy := start(t, c, shell("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done; read x"))
	dead := start(t, c, shell("exit 0"))
	receive(t, dead.gone, "the reaping")
	busy.line(t)
	usage := NewUsage()
	got := usage.Sample([]int{busy.PID(), dead.PID(), os.Getpid()})
	if _, known := got[dead.PID()]; known || len(got) != 2 {
		t.Errorf("figures of the dead: %v", got)
	}
	if f := got[busy.PID()]; f.CPU < 0.03 || f.CPU > patience.Seconds() || f.RSS < 100<<10 || f.RSS > 100<<20 {
		t.Errorf("a busy shell used %+v", f)
	}
	again := usage.Sample([]int{os.Getpid()})
	if len(again) != 1 || again[os.Getpid()].CPU < got[os.Getpid()].CPU {
		t.Errorf("then %v", again)
	}
	if n := len(usage.(*sampler).known); n != 1 {
		t.Errorf("%d processes remembered, 1 asked for", n)
	}
}

// BenchmarkSample reads 200 processes.
func BenchmarkSample(b *testing.B) {
	const most = 8 * time.Millisecond
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
	usage := NewUsage()
	for b.Loop() {
		if n := len(usage.Sample(pids)); n != len(pids) {
			b.Fatalf("%d of %d", n, len(pids))
		}
	}
	if each := b.Elapsed() / time.Duration(b.N); each > most {
		b.Errorf("%v for %d processes, more than %v", each, len(pids), most)
	}
}
