package process

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWeight(t *testing.T) {
	c := newChildren(t)
	spec := shell("read line")
	usual := start(t, c, spec)
	if !usual.CanWeigh() {
		t.Skip("this kernel has no autogroups (CONFIG_SCHED_AUTOGROUP)")
	}
	spec.Light = true
	light := start(t, c, spec)
	for _, test := range []struct {
		what string
		of   *worker
		want string
	}{{"the usual", usual, usualNice}, {"a light one", light, lightNice}} {
		if got := nice(t, test.of); got != test.want {
			t.Errorf("%s has %q, not %q", test.what, got, test.want)
		}
	}
	if err := light.Weigh(); err != nil || nice(t, light) != usualNice {
		t.Errorf("then it has %q, %v", nice(t, light), err)
	}
	if err := light.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	receive(t, light.exited, "its end")
	if err := light.Weigh(); err != nil {
		t.Errorf("of one that has ended: %v", err)
	}
}

// A worker does not keep its low weight because this process has no descriptor to spare for a
// while.
func TestWeighWithoutDescriptors(t *testing.T) {
	c := newChildren(t)
	spec := shell("read line")
	spec.Light = true
	light := start(t, c, spec)
	if !light.CanWeigh() {
		t.Skip("this kernel has no autogroups (CONFIG_SCHED_AUTOGROUP)")
	}
	var before unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: before.Max}, nil); err != nil {
		t.Fatal(err)
	}
	none := light.setUsualNice()
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &before, nil); err != nil {
		t.Fatal(err)
	}
	if none == nil || !passes(none) {
		t.Errorf("without a descriptor: %v, and that lasts", none)
	}
}

func nice(t *testing.T, w *worker) string {
	t.Helper()
	fields := strings.Fields(readFile(t, fmt.Sprintf(autogroup, w.pid)))
	return fields[len(fields)-1]
}
