package config

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/supervisor"
)

func TestWorkers(t *testing.T) {
	for _, test := range []struct {
		text string
		cpus int
		want int
	}{
		{"cpus", 4, 4},
		{"cpus", 5000, 1024},
		{"cpus-1", 4, 3},
		{"cpus-9", 4, 1},
		{"cpus+1", 4, 5},
		{"cpus*2+1", 4, 9},
		{"50%", 4, 2},
		{"50%", 3, 2},
		{"1%", 4, 1},
		{"200%", 3, 6},
		{"7", 1, 7},
		{"1024", 1, 1024},
	} {
		d := &draft{config: supervisor.Config{CPUs: test.cpus}}
		got, err := d.readWorkers(value{kind: typed, text: test.text})
		if err != nil || got != test.want {
			t.Errorf("%s of %d CPUs is %d, %v, not %d", test.text, test.cpus, got, err, test.want)
		}
	}
	for _, wrong := range []string{"", "%", "0%", "-5%", "cpus+", "cpus-", "cpus-0", "cpus--1", "2*cpus", "CPUS", "-1", "0", "99999999999999999999", "1e3", "+2", "-2", " 2", "+50%", "50 %", "400%%", "cpus-99999999999999999999"} {
		d := &draft{config: supervisor.Config{CPUs: 4}}
		if got, err := d.readWorkers(value{kind: typed, text: wrong}); err == nil {
			t.Errorf("%q is %d workers", wrong, got)
		}
	}
}

// workers_max bounds a share of the machine; a number that is more is refused, and so
// is what is more than any app may have.
func TestWorkersMax(t *testing.T) {
	for content, want := range map[string]string{
		"":                                    "4 cpus (4)",
		"workers_max = 3":                     "3 cpus (3)",
		"workers = 'cpus*2+1'":                "9 cpus*2+1 (9)",
		"workers = 'cpus*2+1'\nworkers_max=6": "6 cpus*2+1 (6)",
		"workers = '99999%'\nworkers_max=6":   "6 99999% (6)",
		"workers = 6\nworkers_max=6":          "6 6",
		"workers = 7\nworkers_max=6":          ":1:11: workers: 7 is more than workers_max (6)",
		"workers = '7'\nworkers_max=6":        ":1:11: workers: 7 is more than workers_max (6)",
		"workers = 'cpus*999'":                ":1:11: workers: cpus*999 is 3996 workers: the most is 1024",
		"workers = 1025":                      ":1:11: workers: 1025 is too many: the most is 1024",
		"workers_max = 1025":                  ":1:15: workers_max: must be a number from 0 to 1024, not 1025",
	} {
		cfg, _, err := loadFile(t, content+"\ncommand = ['x']\n")
		got := strconv.Itoa(cfg.Workers)
		for _, s := range cfg.Settings {
			if s.Key == "workers" {
				got += " " + s.Value
			}
		}
		if err != nil {
			got = strings.TrimPrefix(err.Error(), "forkd.toml")
		}
		if got != want {
			t.Errorf("%q:\ngot  %s\nwant %s", content, got, want)
		}
	}
}

// quota reads the limits of this process's cgroups below a root of the test's.
func TestQuota(t *testing.T) {
	const (
		v2Mount = "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
		v1Mount = "30 20 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
	)
	const none = 1<<31 - 1
	for name, test := range map[string]struct {
		mounts, groups string
		files          map[string]string
		want           int
	}{
		"nothing known":  {want: none},
		"v2, no limit":   {v2Mount, "0::/app\n", map[string]string{"sys/fs/cgroup/app/cpu.max": "max 100000\n"}, none},
		"v2, rounded up": {v2Mount, "0::/app\n", map[string]string{"sys/fs/cgroup/app/cpu.max": "150000 100000\n"}, 2},
		"v2, under one":  {v2Mount, "0::/app\n", map[string]string{"sys/fs/cgroup/app/cpu.max": "5000 100000\n"}, 1},
		"v2, exact":      {v2Mount, "0::/app\n", map[string]string{"sys/fs/cgroup/app/cpu.max": "300000 100000\n"}, 3},
		"v2, the group above is tighter": {v2Mount, "0::/a/b\n", map[string]string{
			"sys/fs/cgroup/a/cpu.max": "200000 100000", "sys/fs/cgroup/a/b/cpu.max": "500000 100000",
		}, 2},
		"v2, in a container's namespace": {v2Mount, "0::/\n", map[string]string{"sys/fs/cgroup/cpu.max": "250000 100000"}, 3},
		"v2, the container sees its host's path": {
			"30 20 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/docker/1\n",
			map[string]string{"sys/fs/cgroup/cpu.max": "250000 100000"},
			3,
		},
		"v2, outside of the mount": {
			"30 20 0:26 /../x /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/../y\n",
			map[string]string{"sys/fs/cgroup/cpu.max": "250000 100000"},
			3,
		},
		"v2, mounted at a path with a blank": {
			`30 20 0:26 / /sys/c\040g rw - cgroup2 cgroup rw`, "0::/\n",
			map[string]string{"sys/c g/cpu.max": "100000 100000"},
			1,
		},
		"v1": {v1Mount, "4:memory:/x\n3:cpu,cpuacct:/app\n", map[string]string{
			"sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us": "350000\n", "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us": "100000\n",
		}, 4},
		"v1, no limit": {v1Mount, "3:cpu,cpuacct:/app\n", map[string]string{
			"sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us": "100000\n",
		}, none},
		"v1, cpuset is another": {v1Mount, "3:cpuset:/app\n", map[string]string{
			"sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us": "100000\n", "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us": "100000\n",
		}, none},
		"garbage": {v2Mount, "0::/app\nx\n:\n", map[string]string{"sys/fs/cgroup/app/cpu.max": "much 0\n"}, none},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			place := func(path, content string) {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				write(t, path, content)
			}
			place("proc/self/mountinfo", test.mounts)
			place("proc/self/cgroup", test.groups)
			for path, content := range test.files {
				place(path, content)
			}
			if got := quota(root); got != test.want {
				t.Errorf("%d CPUs, not %d", got, test.want)
			}
		})
	}
}

func TestAffinity(t *testing.T) {
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &before); err != nil {
		t.Fatal(err)
	}
	if got := affinity(); got != before.Count() {
		t.Errorf("%d CPUs, not %d", got, before.Count())
	}
	var one unix.CPUSet
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(os.Getpid(), &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.SchedSetaffinity(os.Getpid(), &before); err != nil {
			t.Error(err)
		}
	})
	if got := availableCPUs(); got != 1 {
		t.Errorf("%d CPUs, bound to one", got)
	}
}
