package capture

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/procfs"
)

const nobody = 65534

// A master of its own, as each kind of user, with a worker of the same and of another.
func TestUsers(t *testing.T) {
	c := children(t)
	unprivileged := &process.Credential{UID: nobody, GID: nobody}
	other := fmt.Sprintf("forbidden: %q", procfs.AccessRule(nobody, 0, false, ""))
	const can = `forbidden: ""`
	answered := "<nil> <nil> <nil>"
	for _, test := range []struct {
		name   string
		drop   string // a capability
		master *process.Credential
		worker string
		want   []string // in what it says
	}{
		{"root", "", nil, "0", []string{can, answered, "2 calls, exit status 0"}},
		{"root for another", "", nil, fmt.Sprint(nobody), []string{can, answered, "2 calls, exit status 0"}},
		{"unprivileged", "", unprivileged, fmt.Sprint(nobody), []string{can, answered, "2 calls, exit status 0"}},
		{"without CAP_SYS_PTRACE", "sys_ptrace", nil, "0", []string{can, answered, "2 calls, exit status 0"}},
		{"without CAP_SYS_PTRACE for another", "sys_ptrace", nil, fmt.Sprint(nobody), []string{other, "<nil> address already in use ", "0 calls, exit status 0"}},
		{"without CAP_SYS_ADMIN for another", "sys_admin", nil, fmt.Sprint(nobody), []string{can, answered, "2 calls, exit status 0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := program(t, "master", test.worker)
			spec.User = test.master
			if test.drop != "" {
				wrapped := command("/usr/bin/setpriv", "--bounding-set", "-"+test.drop, "/proc/self/fd/3", test.worker)
				wrapped.Env, wrapped.Files = spec.Env, []int{int(spec.File.Fd())}
				spec = wrapped
			}
			got := start(t, c, spec, nil).rest(t)
			for _, want := range test.want {
				if !strings.Contains(got+"\n", want) {
					t.Errorf("it says %q, not %q", got, want)
				}
			}
		})
	}
}

func TestForbidden(t *testing.T) {
	expect(t, "root", Forbidden(0), "")
	expect(t, "root for another", Forbidden(nobody), "")
	for _, test := range []struct {
		of, by int
		all    bool
		scope  string
		want   string // a part of it; "": nothing
	}{
		{0, 0, true, "", ""},
		{7, 7, false, "", ""},
		{7, 7, false, "0", ""},
		{7, 7, false, "1", ""},
		{7, 0, true, "1", ""},
		{7, 0, true, "2", ""},
		{7, 7, false, "2", "kernel.yama.ptrace_scope is 2"},
		{7, 0, true, "3", "kernel.yama.ptrace_scope is 3"},
		{7, 7, false, "3", "kernel.yama.ptrace_scope is 3"},
		{7, 8, false, "1", "uid 7"},
		{7, 0, false, "", "CAP_SYS_PTRACE"},
	} {
		got := procfs.AccessRule(test.of, test.by, test.all, test.scope)
		if got == "" && test.want != "" || !strings.Contains(got, test.want) || test.want == "" && got != "" {
			t.Errorf("%+v: %q", test, got)
		}
	}
}

// A profile of seccomp that refuses calls, as those of containers do.
func TestForbiddenByProfile(t *testing.T) {
	c := children(t)
	for number, want := range map[int]string{
		unix.SYS_SECCOMP: "seccomp(2)", unix.SYS_PIDFD_OPEN: "pidfd_open(2)", unix.SYS_PIDFD_GETFD: "pidfd_getfd(2)",
		unix.SYS_PROCESS_VM_READV: "process_vm_readv(2)",
	} {
		want = fmt.Sprintf("%s fails (operation not permitted): %s", want, profile)
		expect(t, "it says", start(t, c, program(t, "profile", fmt.Sprint(number)), nil).rest(t), want)
	}
}
