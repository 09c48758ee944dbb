package process

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shimName is argv[0] of the shim, by which the master's binary recognizes its role. ps
// shows it for a moment.
const shimName = "forkd: starting a worker"

// shimEnv is the shim's environment, without the worker's variables (GODEBUG, LD_PRELOAD).
// With one P the runtime creates no thread during the exec, which would fail
// (go.dev/issue/19546). A failing runtime prints one line.
func shimEnv() []string { return []string{"GOMAXPROCS=1", "GOGC=off", "GOTRACEBACK=none"} }

// In the shim, the process becomes the worker's program, or reports to the master why it
// failed and exits. That is done here and not in main, because half of the shim's processor
// time would be the initialization of packages that it does not use. An import of this
// package that Go initializes late makes every spawn wait.
func init() { //nolint:gochecknoinits // see above
	if len(os.Args) != 2 || os.Args[0] != shimName {
		return
	}
	runtime.LockOSThread() // the changes below are made to this thread only, until the exec
	first, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(127)
	}
	doing, err := become(first)
	errno := unix.EIO
	errors.As(err, &errno)
	_, _ = unix.Write(first+planStatus, fmt.Appendf(nil, "%d %s", int(errno), doing))
	os.Exit(127) // a shell's status for a command that it can't start
}

// become turns this process into the worker's program, and returns only if that failed,
// with what it was doing. The order matters: steps that need the master's privileges come
// before the change of user, steps that it undoes (prctl(2)) after it.
func become(first int) (doing string, err error) {
	p, err := readPlan(first + planText)
	if err != nil {
		return "read its plan", err
	}
	p.record()
	if p.Umask >= 0 {
		unix.Umask(p.Umask)
	}
	for _, step := range []struct {
		doing string
		do    func(*plan) error
	}{
		{enteringDirectory, enterDir},
		{"reset its OOM score", resetOOMScore},
		{"drop the master's capabilities", dropInheritable},
		{"have its calls captured", capture},
		{"enter its control group", enterGroup},
		{"limit its open files", limitFiles}, // after the last that opens one
		{"pin it to a CPU", pin},
		{changingUser, changeUser},
		{"drop the master's capabilities", dropHeld},
		{"reset its signals", resetSignals},
		{"tie it to its master", setParentDeath},
		{"close the master's descriptors", closeRest},
	} {
		if err := step.do(p); err != nil {
			return step.doing, err
		}
	}
	return executing, execute(p)
}

func enterDir(p *plan) error {
	if len(p.Dir) == 0 {
		return nil
	}
	return unix.Chdir(string(p.Dir))
}

// resetOOMScore gives the worker the default score. Lowering it may be forbidden
// (proc_pid_oom_score_adj(5)); then it stays.
func resetOOMScore(*plan) error {
	const file = "/proc/self/oom_score_adj"
	if score, err := os.ReadFile(file); err == nil && string(score) != "0\n" {
		_ = os.WriteFile(file, []byte("0"), 0)
	}
	return nil
}

// enterGroup comes late: threads that the shim needs count for pids.max.
func enterGroup(p *plan) error {
	if p.Group == "" {
		return nil
	}
	return os.WriteFile(p.Group, []byte("0"), 0)
}

// limitFiles tells the runtime too, which would restore the limit at the exec.
func limitFiles(p *plan) error {
	if p.NoFile == 0 {
		return nil
	}
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(p.NoFile), Max: uint64(p.NoFile)})
}

// pin leaves one of the CPUs that the master may use: this thread's are the program's.
func pin(p *plan) error {
	if !p.Pin {
		return nil
	}
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return err
	}
	turn := p.Slot % may.Count()
	for cpu := 0; turn >= 0; cpu++ {
		if may.IsSet(cpu) {
			one.Zero()
			one.Set(cpu)
			turn--
		}
	}
	return unix.SchedSetaffinity(0, &one)
}

// dropInheritable clears the ambient and the inheritable capabilities, which an exec
// passes on (capabilities(7)). The bounding set stays: it is no privilege, and setuid
// programs (sendmail) need it.
func dropInheritable(*plan) error {
	err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: older than Linux 4.3, has none
		return err
	}
	held, err := capabilities()
	if err != nil {
		return err
	}
	if held[0].Inheritable == 0 && held[1].Inheritable == 0 {
		return nil
	}
	held[0].Inheritable, held[1].Inheritable = 0, 0
	return setCapabilities(held)
}

// dropHeld clears the others, unless the worker is root, to whom the exec gives root's
// own. A change of user has done it already, unless securebits are set.
func dropHeld(*plan) error {
	if unix.Geteuid() == 0 {
		return nil
	}
	return setCapabilities([2]unix.CapUserData{})
}

func capabilities() (held [2]unix.CapUserData, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return held, unix.Capget(&header, &held[0])
}

func setCapabilities(to [2]unix.CapUserData) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return unix.Capset(&header, &to[0])
}

// changeUser sets groups, group and user, for this thread only. A master that runs as
// that user already needs no privilege.
func changeUser(p *plan) error {
	u := p.User
	if u == nil || alreadyIs(u) {
		return nil
	}
	var groups unsafe.Pointer
	if len(u.Groups) > 0 {
		groups = unsafe.Pointer(&u.Groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(u.Groups)), uintptr(groups), 0); errno != 0 {
		return errno
	}
	gid, uid := uintptr(u.GID), uintptr(u.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return errno
	}
	return nil
}

// alreadyIs reports whether there is nothing to change. The primary group may also be
// among the supplementary ones.
func alreadyIs(u *Credential) bool {
	ruid, euid, suid := unix.Getresuid()
	rgid, egid, sgid := unix.Getresgid()
	uid, gid := int(u.UID), int(u.GID)
	have, err := unix.Getgroups()
	if err != nil || [...]int{ruid, euid, suid, rgid, egid, sgid} != [...]int{uid, uid, uid, gid, gid, gid} {
		return false
	}
	want := []int{gid}
	for _, g := range u.Groups {
		want = append(want, int(g))
	}
	have = append(have, gid)
	slices.Sort(want)
	slices.Sort(have)
	return slices.Equal(slices.Compact(have), slices.Compact(want))
}

// signals is one more than the highest signal number.
const signals = 65

// resetSignals sets every signal to its default action, ignored ones too, and unblocks
// all: execve(2) keeps ignored and blocked signals.
func resetSignals(*plan) error {
	for sig := unix.Signal(1); sig < signals; sig++ {
		if sig == unix.SIGKILL || sig == unix.SIGSTOP {
			continue
		}
		if err := setAction(sig, sigDefault); err != nil {
			return err
		}
	}
	return unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil)
}

// sigDefault is SIG_DFL.
const sigDefault = 0

// setAction sets the action of a signal (rt_sigaction(2)), past the runtime, which would
// keep SIGHUP and SIGINT ignored.
func setAction(sig unix.Signal, handler uintptr) error {
	action := [8]uintptr{handler} // the kernel's struct sigaction begins with it
	const maskSize = 8
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, maskSize, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// setParentDeath requests the parent-death signal, which a change of user clears. If the
// master has died already, it would never come.
func setParentDeath(p *plan) error {
	if p.ParentDeath == 0 {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(p.ParentDeath), 0, 0, 0); err != nil {
		return err
	}
	if unix.Getppid() != p.Parent {
		return unix.ESRCH
	}
	return nil
}

// closeRest marks all descriptors but the worker's own close-on-exec.
func closeRest(p *plan) error {
	kept := len(p.Files)
	if kept > 2 {
		if err := unix.Dup3(kept+planStderr, 2, 0); err != nil {
			return err
		}
	}
	return unix.CloseRange(uint(kept), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}

func execute(p *plan) error {
	args, env := convert[string](p.Args), convert[string](p.Env)
	for _, name := range p.PIDIn {
		env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
		env = append(env, name+"="+strconv.Itoa(os.Getpid()))
	}
	if p.FromFile {
		return executeFile(len(p.Files)+planFile, args, env)
	}
	return syscall.Exec(string(p.Path), args, env)
}

// executeFile runs an open file (execveat(2)).
func executeFile(fd int, args, env []string) error {
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return err
	}
	// The runtime has raised the limit of open files. syscall.Exec, although it fails,
	// restores it; nothing else can.
	_ = syscall.Exec("", args, env)
	var empty byte
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	runtime.KeepAlive(argv)
	runtime.KeepAlive(envv)
	return errno
}
