package config

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/supervisor"
)

// workers is a number of slots: 4, "cpus", "cpus-1" or "50%" of the CPUs.
func (v value) workers(cpus int) (int, error) {
	wrong := fmt.Errorf(`%s is no number of workers: use 1 to %d, "cpus", "cpus-1" or "50%%"`, v, supervisor.MaxWorkers)
	n, err := v.count(cpus)
	switch {
	case err != nil || n < 1:
		return 0, wrong
	case n > supervisor.MaxWorkers:
		return 0, fmt.Errorf("%s is %d workers: the most is %d", v, n, supervisor.MaxWorkers)
	}
	return n, nil
}

func (v value) count(cpus int) (int, error) {
	if v.kind != text && v.kind != typed {
		n, err := v.number()
		return int(min(n, math.MaxInt32)), err
	}
	if n, ok := supervisor.Share(v.text, cpus); ok {
		return n, nil
	}
	n, err := strconv.ParseUint(v.text, 10, 32) // +2 and -1 are changes, not numbers
	return int(n), err
}

// availableCPUs is how many CPUs the workers may use: those of the main
// thread, which spawns them (sched_setaffinity(2)), or fewer where a cgroup's
// quota allows less, rounded up. It is asked anew each time: both can change
// while the master runs.
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

// quota is the CPU limit of this process's cgroups, in whole CPUs, rounded up;
// a very high number without one. root is where /proc and /sys are.
func quota(root string) int {
	limit := math.Inf(1)
	for _, group := range cgroups(root) {
		limit = min(limit, group.limit())
	}
	if math.IsInf(limit, 1) {
		return math.MaxInt32
	}
	return max(1, int(math.Ceil(min(limit, math.MaxInt32))))
}

// cgroup is one of this process's groups with the mount that shows it: v2's,
// and v1's cpu hierarchy.
type cgroup struct {
	mount string // a directory
	path  string // below it
	v2    bool
}

// limit is the smallest quota of the group and those above it, in CPUs.
func (c cgroup) limit() float64 {
	limit := math.Inf(1)
	for path := filepath.Join("/", c.path); ; path = filepath.Dir(path) {
		if cpus, err := c.read(filepath.Join(c.mount, path)); err == nil {
			limit = min(limit, cpus)
		}
		if path == "/" {
			return limit
		}
	}
}

// read reads one group's quota: "max 100000" or "150000 100000" in v2's
// cpu.max; two files in v1, -1 for none (Documentation/admin-guide/cgroup-v2.rst,
// Documentation/scheduler/sched-bwc.rst).
func (c cgroup) read(directory string) (float64, error) {
	var fields []string
	files := []string{"cpu.max"}
	if !c.v2 {
		files = []string{"cpu.cfs_quota_us", "cpu.cfs_period_us"}
	}
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(directory, file))
		if err != nil {
			return 0, err
		}
		fields = append(fields, strings.Fields(string(data))...)
	}
	if len(fields) != 2 {
		return 0, strconv.ErrSyntax
	}
	allowed, err := strconv.ParseFloat(fields[0], 64)
	period, errPeriod := strconv.ParseFloat(fields[1], 64)
	if err := errors.Join(err, errPeriod); err != nil || allowed <= 0 || period <= 0 {
		return 0, strconv.ErrRange // "max" and -1 too: no limit
	}
	return allowed / period, nil
}

// cgroups finds the groups of this process that may hold a CPU quota. What
// can't be read limits nothing.
func cgroups(root string) []cgroup {
	mounts, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return nil
	}
	own, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}
	var found []cgroup
	for line := range strings.Lines(string(own)) {
		// hierarchy:controllers:path, 0::path for v2 (cgroups(7))
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		v2 := fields[0] == "0" && fields[1] == ""
		if !v2 && !hasWord(fields[1], "cpu") {
			continue
		}
		if mount, top, ok := mountOf(string(mounts), v2); ok {
			found = append(found, cgroup{
				mount: filepath.Join(root, mount),
				path:  below(top, fields[2]),
				v2:    v2,
			})
		}
	}
	return found
}

// mountOf finds where a hierarchy is mounted, and which group is at its top:
// the fields of proc_pid_mountinfo(5) are id, parent, device, root, mount
// point, options, any tags, "-", type, source, super options.
func mountOf(mounts string, v2 bool) (point, top string, ok bool) {
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		mount, kind := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(kind) < 3 {
			continue
		}
		if v2 && kind[0] == "cgroup2" || !v2 && kind[0] == "cgroup" && hasWord(kind[2], "cpu") {
			return unescape(mount[4]), unescape(mount[3]), true
		}
	}
	return "", "", false
}

// below is group's path under a mount whose top is another group: a container
// sees its own as the top. A group outside of the mount counts as the top.
func below(top, group string) string {
	rest, err := filepath.Rel(top, group)
	if err != nil || rest == ".." || strings.HasPrefix(rest, "../") {
		return "/"
	}
	return rest
}

func hasWord(list, word string) bool {
	for entry := range strings.SplitSeq(list, ",") {
		if entry == word {
			return true
		}
	}
	return false
}

// unescape undoes mountinfo's octal escapes of blanks and backslashes.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}
