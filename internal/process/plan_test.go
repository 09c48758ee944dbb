package process

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const nobody = 65534

// status reads "Key:\tvalue" lines as /proc/PID/status has them.
func status(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			fields[key] = strings.Join(strings.Fields(value), " ")
		}
	}
	return fields
}

func catStatus() Spec {
	return Spec{Path: "/bin/cat", Args: []string{"cat", "/proc/self/status"}, Umask: -1}
}

// The limit on open files is the program's, whatever the Go runtime does with its own, and
// so is the CPU.
func TestLimits(t *testing.T) {
	c := newChildren(t)
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		t.Fatal(err)
	}
	var cpus []string
	for cpu := range 1024 {
		if may.IsSet(cpu) {
			cpus = append(cpus, strconv.Itoa(cpu))
		}
	}
	for slot := range 3 {
		spec := shell("ulimit -Sn; ulimit -Hn; grep Cpus_allowed_list /proc/self/status")
		spec.Slot, spec.NoFile, spec.Pin = slot, 345, true
		want := "345\n345\nCpus_allowed_list:\t" + cpus[slot%len(cpus)]
		if got := start(t, c, spec).rest(t); got != want {
			t.Errorf("slot %d: %q, not %q", slot, got, want)
		}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	// More than the hard limit, set before the change of user: as CheckNoFile has it.
	spec := shell("ulimit -Hn")
	spec.NoFile = int(limit.Max) + 1
	if os.Geteuid() == 0 {
		spec.User = &Credential{UID: nobody, GID: nobody}
	}
	w, err := tryStart(t, c, spec)
	switch refused := CheckNoFile(spec.NoFile); {
	case (err == nil) != (refused == nil):
		t.Errorf("%v, but %v", err, refused)
	case err != nil && !errors.Is(err, unix.EPERM):
		t.Error(err)
	case err == nil:
		if got := w.rest(t); got != strconv.Itoa(spec.NoFile) {
			t.Errorf("raised to %s, not %d", got, spec.NoFile)
		}
	}
	if err := CheckNoFile(1 << 30); err == nil || !strings.Contains(err.Error(), "fs.nr_open=1073741824") {
		t.Errorf("of too many: %v", err)
	}
}

func TestDescriptors(t *testing.T) {
	c := newChildren(t)
	stray, err := unix.Open("/dev/null", unix.O_RDONLY, 0) // without O_CLOEXEC
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stray)
	a, b := pipe(t)
	flags, err := unix.FcntlInt(b.Fd(), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	spec := Spec{Path: "/bin/cat", Args: []string{"cat"}, Umask: -1, Files: []int{int(b.Fd()), int(a.Fd()), 0}}
	w := start(t, c, spec)
	if _, err := w.input.WriteString("up\n"); err != nil {
		t.Fatal(err)
	}
	w.line(t)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.PID()))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if want := []string{"0", "1", "2", "3", "4", "5"}; !slices.Equal(got, want) {
		t.Errorf("descriptors %v, want %v", got, want)
	}
	for fd, want := range map[int]*os.File{3: b, 4: a} {
		his, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", w.PID(), fd))
		ours, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", want.Fd()))
		if his != ours {
			t.Errorf("descriptor %d is %s, want %s", fd, his, ours)
		}
	}
	if now, _ := unix.FcntlInt(b.Fd(), unix.F_GETFL, 0); now != flags {
		t.Errorf("the flags of a passed descriptor went from %#x to %#x", flags, now)
	}
}

func TestEnvironmentAndArguments(t *testing.T) {
	c := newChildren(t)
	spec := shell(`echo "$LISTEN_PID $$"; printf '%s|' "$@" "$ODD"; cut -d' ' -f5,6 /proc/self/stat`)
	spec.Args = append(spec.Args, "sh", "\xff\xfe", "", "a b\n")
	spec.Env = append(spec.Env, "LISTEN_PID=1", "ODD=\x80<&>")
	spec.PIDIn = []string{"LISTEN_PID"}
	w := start(t, c, spec)
	want := fmt.Sprintf("%d %[1]d\n\xff\xfe||a b\n|\x80<&>|%[1]d %[1]d", w.PID())
	if got := w.rest(t); got != want {
		t.Errorf("got %q, want %q (LISTEN_PID pid, arguments, value, group, session)", got, want)
	}
	spec = Spec{Path: "/usr/bin/env", Args: []string{"env"}, Env: []string{"ONLY=this"}, Umask: -1}
	if got := start(t, c, spec).rest(t); got != "ONLY=this" {
		t.Errorf("the environment is %q", got)
	}
}

func TestUserGroupsUmaskDirectory(t *testing.T) {
	c := newChildren(t)
	dir := filepath.Join(t.TempDir(), "only-root")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	spec := catStatus()
	spec.User = &Credential{UID: nobody, GID: 65533, Groups: []uint32{7, 65532}}
	spec.Umask, spec.Dir = 0o137, dir
	got := status(start(t, c, spec).rest(t))
	for key, want := range map[string]string{
		"Uid": "65534 65534 65534 65534", "Gid": "65533 65533 65533 65533", "Groups": "7 65532", "Umask": "0137",
		"CapInh": noCaps, "CapPrm": noCaps, "CapEff": noCaps, "CapAmb": noCaps,
	} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
	spec = shell("pwd -P")
	spec.Dir = dir
	if got := start(t, c, spec).rest(t); got != dir {
		t.Errorf("runs in %s, want %s", got, dir)
	}
}

const noCaps = "0000000000000000"

func TestNothingOfTheMasters(t *testing.T) {
	c := newChildren(t)
	all := []string{"stray descriptors", "oom score", "ignore signals", "block signals", "ambient capability"}
	cases := map[string]struct {
		prepare []string
		user    *Credential
		as      *Credential // the master
		effect  string      // CapEff of the worker
	}{
		"root":            {prepare: all, effect: status(readFile(t, "/proc/self/status"))["CapBnd"]},
		"user":            {prepare: all, user: &Credential{UID: nobody, GID: nobody}, effect: noCaps},
		"securebits":      {prepare: append(slices.Clip(all), "keep capabilities"), user: &Credential{UID: nobody, GID: nobody}, effect: noCaps},
		"no root":         {prepare: all[2:4], as: &Credential{UID: nobody, GID: nobody}, effect: noCaps},
		"no root, itself": {as: &Credential{UID: nobody, GID: nobody, Groups: []uint32{7}}, user: &Credential{UID: nobody, GID: nobody, Groups: []uint32{nobody, 7}}, effect: noCaps},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			run := func(args ...string) string { // no shell: it has a signal mask of its own
				worker := Spec{Path: "/bin/" + args[0], Args: args, Umask: -1, Files: []int{0, 1, 2}, User: test.user}
				return start(t, c, master(t, job{Prepare: test.prepare, Spec: worker}, test.as)).rest(t)
			}
			got := status(run("cat", "/proc/self/status"))
			for key, want := range map[string]string{
				"SigIgn": noCaps, "SigBlk": noCaps, "CapInh": noCaps, "CapAmb": noCaps, "CapEff": test.effect,
			} {
				if got[key] != want {
					t.Errorf("%s is %q, want %q", key, got[key], want)
				}
			}
			if score := run("cat", "/proc/self/oom_score_adj"); !slices.Contains(strings.Split(score, "\n"), "0") {
				t.Errorf("the OOM score is %s", score)
			}
			// 3 is the directory that ls reads.
			if all := run("ls", "-x", "/proc/self/fd"); !slices.Contains(strings.Split(all, "\n"), "0  1  2  3") {
				t.Errorf("descriptors: %s", all)
			}
			if test.user != nil && got["Uid"] != "65534 65534 65534 65534" {
				t.Errorf("runs as %s", got["Uid"])
			}
		})
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The Go runtime raises the soft limit of open files for itself: not for the worker.
func TestLimitOfOpenFiles(t *testing.T) {
	c := newChildren(t)
	for name, open := range map[string]string{"path": "", "descriptor": "/bin/sh"} {
		t.Run(name, func(t *testing.T) {
			worker := shell("ulimit -S -n")
			worker.Files = []int{0, 1, 2}
			outer := master(t, job{Spec: worker, Open: open}, nil)
			spec := shell("ulimit -S -n 777; exec /proc/self/fd/3 master")
			spec.Env, spec.Files = outer.Env, []int{int(outer.File.Fd())}
			if got := start(t, c, spec).rest(t); !slices.Contains(strings.Split(got, "\n"), "777") {
				t.Errorf("the master's soft limit is 777, the worker's: %s", got)
			}
		})
	}
}

func TestParentDeath(t *testing.T) {
	c := newChildren(t)
	for name, user := range map[string]*Credential{"root": nil, "user": {UID: nobody, GID: nobody}} {
		t.Run(name, func(t *testing.T) {
			worker := shell(`trap 'echo told; exit 0' TERM; echo up; while :; do sleep 1000 & wait; done`)
			worker.Files, worker.User, worker.ParentDeath = []int{0, 1, 2}, user, syscall.SIGTERM
			m := start(t, c, master(t, job{Spec: worker, Stay: true}, nil))
			lines := []string{m.line(t), m.line(t)} // in either order
			slices.Sort(lines)
			pid, err := strconv.Atoi(strings.TrimPrefix(lines[1], "worker "))
			if err != nil || lines[0] != "up" {
				t.Fatalf("%q", lines)
			}
			defer unix.Kill(-pid, unix.SIGKILL) // its sleep
			if err := m.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if got := m.line(t); got != "told" {
				t.Errorf("the worker said %q", got)
			}
			eventually(t, "the worker is reaped by this subreaper", func() bool { return state(pid) == "" })
		})
	}
}

// A child whose master has died must not run the program, which no master would ever end.
func TestMasterDiedBefore(t *testing.T) {
	c := newChildren(t)
	spec := shell("exit 0")
	spec.ParentDeath = syscall.SIGTERM
	p, got := startWith(t, c, spec, func(p *plan) {
		at := slices.IndexFunc(p.calls, func(c call) bool { return c.doing == tyingToMaster && c.want != 0 })
		p.calls[at].want++
	})
	c.abandon(p)
	if got == nil || !errors.Is(got, unix.ESRCH) {
		t.Errorf("got %v", got)
	}
}

// Every call that fails ends the start and is named, unless the worker can do without it.
func TestEveryCallFails(t *testing.T) {
	c, _ := recording(t)
	spec := shell("exit 0")
	spec.Capture, spec.Umask, spec.Dir, spec.Pin, spec.ParentDeath = true, 0o22, "/", true, syscall.SIGTERM
	calls := []call{{}}
	for i := 0; i < len(calls); i++ {
		if i > 0 && calls[i].number == unix.SYS_RT_SIGACTION && calls[i-1].number == unix.SYS_RT_SIGACTION {
			continue
		}
		var broken call
		p, err := startWith(t, c, spec, func(p *plan) {
			calls = slices.Clone(p.calls)
			broken = calls[i]
			p.calls[i].number = math.MaxUint32 // ENOSYS
		})
		why := p.uncaptured
		c.abandon(p)
		switch {
		case broken.quiet && err != nil,
			!broken.quiet && broken.later > 0 && (err != nil || !strings.Contains(why, "forbids seccomp(2)")),
			!broken.quiet && broken.later == 0 && (!errors.Is(err, unix.ENOSYS) || !strings.Contains(err.Error(), "cannot "+strings.Fields(broken.doing)[0])):
			t.Errorf("call %d, %s: %v, %q", i, broken.doing, err, why)
		}
	}
	if len(calls) < signals {
		t.Errorf("%d calls", len(calls))
	}
}

// startWith starts spec by a plan that change has changed.
func startWith(t *testing.T, c *Children, spec Spec, change func(*plan)) (p *Process, err error) {
	t.Helper()
	status, theirs, err := statusPair()
	if err != nil {
		t.Fatal(err)
	}
	defer status.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	spec.Files = []int{fd, fd, fd}
	line, records := c.takeLine(recordOf(&spec))
	var made *plan
	done := make(chan struct{})
	c.forks <- func() {
		defer close(done)
		if made, err = newPlan(&spec, int(theirs.Fd()), records, line, c.noFile); err == nil {
			change(made)
			p, err = c.fork(made, line)
			made.close()
		}
	}
	<-done
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	err = p.await(status, made, &spec)
	if p.listener >= 0 {
		unix.Close(p.listener)
		p.listener = -1
	}
	return p, err
}

func TestStartTime(t *testing.T) {
	for text, want := range map[string]string{
		"1 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21":  "777",
		"1 (a) b) S) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 7 20": "7",
		"1 (a) S 1 2": "0", "": "0", "no": "0",
		"1 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 " + strings.Repeat("9", 30) + " 1": strings.Repeat("9", 20),
	} {
		got := append([]byte("0"), slices.Repeat([]byte{' '}, 19)...)
		startTime([]byte(text), got)
		if strings.TrimSpace(string(got)) != want {
			t.Errorf("%q: %q, not %q", text, got, want)
		}
	}
}

func TestDecimal(t *testing.T) {
	for _, n := range []int{0, 1, 9, 10, 12345, 4194304, math.MaxInt32} {
		got := make([]byte, 11)
		decimal(got, uintptr(n))
		if text, _, _ := strings.Cut(string(got), "\x00"); text != strconv.Itoa(n) {
			t.Errorf("%d: %q", n, got)
		}
	}
}
