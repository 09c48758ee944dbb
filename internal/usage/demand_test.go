package usage_test

import (
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/usage"
)

func TestDemand(t *testing.T) {
	leader := func(script string) int {
		cmd := exec.Command("sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
		})
		return cmd.Process.Pid
	}
	busy, idle := leader("while :; do :; done & wait"), leader("sleep 1000 & wait")
	// However little of a CPU the busy one gets: it waits for one all the time.
	deadline := time.Now().Add(time.Minute)
	for {
		b, known := usage.Demand(busy)
		i, known2 := usage.Demand(idle)
		if known && known2 && b > 500*time.Millisecond && i < b/5 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("busy %v %t, idle %v %t", b, known, i, known2)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestDemandOfNobody(t *testing.T) {
	if d, known := usage.Demand(1 << 30); d != 0 || known {
		t.Errorf("got %v %t", d, known)
	}
}
