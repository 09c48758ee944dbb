package process

import (
	"errors"
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

// shimName is the argv[0] by which the master's binary knows that it is the
// shim, and what ps shows for the moment that this lasts.
const shimName = "forkd: starting a worker"

// shimEnv keeps the shim's runtime small. One P: no thread is made during the
// exec, which would fail (go.dev/issue/19546). No worker variable reaches it:
// GODEBUG or LD_PRELOAD are the worker's affair. Where the runtime itself fails,
// a line says so.
func shimEnv() []string { return []string{"GOMAXPROCS=1", "GOGC=off", "GOTRACEBACK=none"} }

// Shim is the first thing that main does, and TestMain. In the master it returns
// at once. In the shim it never does: the process becomes the worker's program,
// or ends after it has told the master why it can't.
func Shim() {
	if len(os.Args) != 3 || os.Args[0] != shimName {
		return
	}
	runtime.LockOSThread() // what follows is this thread's, until the exec makes it the process's
	first, err := strconv.Atoi(os.Args[1])
	line, bad := strconv.Atoi(os.Args[2])
	if err != nil || bad != nil {
		os.Exit(127)
	}
	at, err := become(first, line)
	errno := unix.EIO
	errors.As(err, &errno)
	_, _ = unix.Write(first+planStatus, encodeFailure(at, errno))
	os.Exit(127) // as a shell says that a command did not begin
}

// become turns this process into the worker's program, and returns only where
// that failed. The order matters: what needs the master's privileges comes
// before the change of user, and what that undoes (prctl(2)) after it.
func become(first, line int) (step, error) {
	p, err := readPlan(first + planText)
	if err != nil {
		return stepPlan, err
	}
	p.record(line)
	for _, s := range []struct {
		step step
		do   func(*plan) error
	}{
		{stepUmask, setUmask},
		{stepDir, enterDir},
		{stepOOM, resetOOMScore},
		{stepCapabilities, dropInheritable},
		{stepUser, changeUser},
		{stepCapabilities, dropHeld},
		{stepSignals, resetSignals},
		{stepParent, followParent},
		{stepDescriptors, closeRest},
		{stepExec, execute},
	} {
		if err := s.do(p); err != nil {
			return s.step, err
		}
	}
	return stepExec, unix.EIO // an exec that succeeds does not return
}

func setUmask(p *plan) error {
	if p.Umask >= 0 {
		unix.Umask(p.Umask)
	}
	return nil
}

func enterDir(p *plan) error {
	if len(p.Dir) == 0 {
		return nil
	}
	return unix.Chdir(string(p.Dir))
}

// resetOOMScore makes the worker as killable as any other process, where the
// master was spared or offered. To go lower than one was born may be forbidden
// (proc_pid_oom_score_adj(5)): then it stays.
func resetOOMScore(*plan) error {
	const file = "/proc/self/oom_score_adj"
	if score, err := os.ReadFile(file); err == nil && string(score) != "0\n" {
		_ = os.WriteFile(file, []byte("0"), 0)
	}
	return nil
}

// dropInheritable clears what an exec would pass on: the ambient and the
// inheritable capabilities (capabilities(7)). The bounding set stays: it is a
// limit and no privilege, and without it no setuid program works (sendmail).
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

// dropHeld clears the rest, unless the worker is root: then the exec gives it
// root's own. A change of user has done it, but for securebits.
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

// changeUser sets groups, group and user. The calls are raw: this thread alone
// is about to be the process. A master that is that user already needs no
// privilege.
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

// alreadyIs reports whether there is nothing to change. The primary group among
// the supplementary ones makes no difference.
func alreadyIs(u *Credential) bool {
	ruid, euid, suid := unix.Getresuid()
	rgid, egid, sgid := unix.Getresgid()
	if slices.ContainsFunc([]int{ruid, euid, suid}, func(id int) bool { return id != int(u.UID) }) ||
		slices.ContainsFunc([]int{rgid, egid, sgid}, func(id int) bool { return id != int(u.GID) }) {
		return false
	}
	have, err := unix.Getgroups()
	if err != nil {
		return false
	}
	for _, g := range have {
		if g != int(u.GID) && !slices.Contains(u.Groups, uint32(g)) {
			return false
		}
	}
	for _, g := range u.Groups {
		if g != u.GID && !slices.Contains(have, int(g)) {
			return false
		}
	}
	return true
}

// signals is one more than the highest signal number.
const signals = 65

// resetSignals gives every signal its default action, ignored ones too, and
// blocks none: a program may rely on that (execve(2) keeps both).
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

// setAction sets what a signal does, below the runtime, which keeps SIGHUP and
// SIGINT ignored where they were (rt_sigaction(2)).
func setAction(sig unix.Signal, handler uintptr) error {
	action := [8]uintptr{handler} // the kernel's struct sigaction begins with it
	const maskSize = 8
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, maskSize, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// followParent asks for the parent-death signal, which a change of user clears.
// A master that died before has another process as our parent by now: that
// signal would never come.
func followParent(p *plan) error {
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

// closeRest has the exec close all but the worker's own descriptors.
func closeRest(p *plan) error {
	if p.Files > 2 {
		if err := unix.Dup3(p.Files+planStderr, 2, 0); err != nil {
			return err
		}
	}
	return unix.CloseRange(uint(p.Files), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}

func execute(p *plan) error {
	args, env := stringSlice(p.Args), stringSlice(p.Env)
	if p.ListenPID {
		env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, "LISTEN_PID=") })
		env = append(env, "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	}
	if p.FromFile {
		return executeFile(p.Files+planFile, args, env)
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
	// The runtime has raised this process's limit of open files, and only
	// syscall.Exec can put it back. It does so before it fails.
	_ = syscall.Exec("", args, env)
	var empty byte
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	runtime.KeepAlive(argv)
	runtime.KeepAlive(envv)
	return errno
}
