package config

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/cgroup"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/supervisor"
)

// readWorkers reads a number of slots: 4, or a share of the CPUs, "cpus*2+1" or "50%". The
// result may exceed supervisor.MaxWorkers. The text is kept too: it is shown.
func (d *draft) readWorkers(v value) (int, error) {
	d.workers = v.text
	n, share := control.Share(v.text, d.config.CPUs)
	number, err := v.number()
	switch {
	case share:
	case err != nil || v.text[0] == '+': // +2 and -1 are changes, not numbers
		n = 0
	default:
		n = int(min(number, math.MaxInt32))
	}
	if n < 1 {
		return 0, fmt.Errorf(`%s is no number of workers: use 1 to %d, "cpus", "cpus-1", "cpus*2+1" or "50%%"`, v, supervisor.MaxWorkers)
	}
	return n, nil
}

// availableCPUs returns how many CPUs the workers may use: the affinity of the main
// thread, which spawns them (sched_setaffinity(2)), limited by the cgroup's quota,
// rounded up. Both can change while the master runs. runtime.GOMAXPROCS does not serve:
// the master has lowered it, and it counts a smaller quota as 2.
func availableCPUs() int {
	return min(affinity(), quota("/"))
}

func affinity() int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &set); err != nil {
		return runtime.NumCPU() // more CPUs than the set has bits
	}
	return max(1, set.Count())
}

// quota returns the CPU limit of this process's cgroups in whole CPUs, rounded up;
// math.MaxInt32 without a limit. root is the directory of /proc and /sys.
func quota(root string) int {
	limit := float64(math.MaxInt32)
	for _, group := range cgroup.Own(root, "cpu") {
		limit = min(limit, readQuota(group))
	}
	return max(1, int(math.Ceil(limit)))
}

// readQuota reads one group's quota in CPUs, +Inf without one: "max 100000" or
// "150000 100000" in v2's cpu.max, two files in v1, -1 for none
// (Documentation/admin-guide/cgroup-v2.rst, Documentation/scheduler/sched-bwc.rst).
func readQuota(group cgroup.Group) float64 {
	files := []string{"cpu.max"}
	if !group.V2 {
		files = []string{"cpu.cfs_quota_us", "cpu.cfs_period_us"}
	}
	var text []byte
	for _, file := range files {
		data, _ := os.ReadFile(filepath.Join(group.Dir, file))
		text = append(append(text, data...), ' ')
	}
	var allowed, period float64
	if n, _ := fmt.Sscan(string(text), &allowed, &period); n < 2 || allowed <= 0 || period <= 0 {
		return math.Inf(1)
	}
	return allowed / period
}
