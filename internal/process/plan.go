package process

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// A plan is what a child does between fork(2) and its program, with all the memory that
// it needs for that.
type plan struct {
	calls  []call
	status uintptr // descriptor of the socket for reports, in parent and child
	said   report  // the one that is being made
	handle int32   // pidfd of the child, set by the fork

	// What only the child knows goes into these.
	pids        [][]byte // its pid
	start, stat []byte   // its start time, from its /proc/PID/stat
	statPath    uintptr

	uncaptured string // why its calls can't be captured, see Process.Capture
	moved      []int  // copies of descriptors, to be closed
	kept       []any  // what the arguments point to
	failed     error  // why there is no plan
}

// cwd is AT_FDCWD.
const cwd = ^uintptr(-unix.AT_FDCWD - 1)

// newPlan is called on the thread that forks, whose capabilities and CPUs are the child's.
// status and records are descriptors, -1: there are no records. noFile is the limit on open
// files without Go's own change. Call close after the fork.
//
// The order matters: what needs the master's privileges comes before the change of user,
// what that undoes (prctl(2)) after it.
func newPlan(s *Spec, status, records, line int, noFile unix.Rlimit) (*plan, error) {
	p := new(plan)
	files := slices.Clone(s.Files)
	add := func(fd int) uintptr {
		files = append(files, fd)
		return uintptr(len(files) - 1)
	}
	program, lines := uintptr(0), uintptr(0)
	if s.File != nil {
		program = add(int(s.File.Fd()))
	}
	if line > 0 {
		lines = add(records)
	}
	p.takeFiles(files, status)
	p.do("lead its session", unix.SYS_SETSID)
	if s.Light {
		p.tryWrite("lower its weight", fmt.Sprintf(autogroup, "self"), lightNice)
	}
	p.record(lines, line)
	if s.Umask >= 0 {
		p.do("set its umask", unix.SYS_UMASK, uintptr(s.Umask))
	}
	if s.Dir != "" {
		p.do(enteringDirectory, unix.SYS_CHDIR, p.text(s.Dir))
	}
	p.resetOOMScore()
	if err := p.dropInheritable(); err != nil {
		return nil, err
	}
	if s.Capture {
		p.capture(uintptr(len(files)))
	}
	if s.Group != "" {
		p.do(enteringGroup, unix.SYS_OPENAT, cwd, p.text(s.Group), unix.O_WRONLY|unix.O_CLOEXEC)
		p.do(enteringGroup, unix.SYS_WRITE, 0, p.text("0"), 1).onLast = true
	}
	if s.NoFile != 0 {
		noFile = unix.Rlimit{Cur: uint64(s.NoFile), Max: uint64(s.NoFile)}
	}
	p.do("limit its open files", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, at(p, &noFile)) // after the last that opens one
	if s.Pin {
		if err := p.pin(s.Slot); err != nil {
			return nil, err
		}
	}
	p.changeUser(s.User)
	p.resetSignals()
	if s.ParentDeath != 0 {
		// A change of user clears it. If the master has died already, it would never come.
		p.do(tyingToMaster, unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(s.ParentDeath))
		p.do(tyingToMaster, unix.SYS_GETPPID).want = uintptr(os.Getpid())
	}
	p.do(closing, unix.SYS_CLOSE_RANGE, uintptr(len(s.Files)), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	p.execute(s, program)
	if p.failed != nil {
		p.close()
		return nil, p.failed
	}
	return p, nil
}

// close closes what the plan has opened, after the fork.
func (p *plan) close() {
	for _, fd := range p.moved {
		unix.Close(fd)
	}
	runtime.KeepAlive(p)
}

// do adds a call, whose failure is the start's.
func (p *plan) do(doing string, number uintptr, args ...uintptr) *call {
	c := call{doing: doing, number: number}
	copy(c.args[:], args)
	p.calls = append(p.calls, c)
	return &p.calls[len(p.calls)-1]
}

// at is the address of an argument, which the plan keeps. (Go moves stacks only.)
func at[T any](p *plan, x *T) uintptr {
	p.kept = append(p.kept, x)
	return uintptr(unsafe.Pointer(x))
}

func (p *plan) text(s string) uintptr {
	text, err := unix.BytePtrFromString(s)
	if err != nil {
		p.failed = err
		return 0
	}
	return at(p, text)
}

// texts is an array of texts that ends with a null pointer.
func (p *plan) texts(all []string) []*byte {
	texts, err := syscall.SlicePtrFromStrings(all)
	if err != nil {
		p.failed = err
		return []*byte{nil}
	}
	return texts
}

// takeFiles makes the files descriptors 0, 1, 2, ..., and closes all others but status,
// which the first report may need: the child must not hold the master's lock or sockets for
// as long as loading the program takes.
func (p *plan) takeFiles(files []int, status int) {
	most := len(files)
	p.status = p.above(status, most)
	for i, fd := range files {
		p.do("take its descriptors", unix.SYS_DUP3, p.above(fd, most), uintptr(i))
	}
	if p.status > uintptr(most) {
		p.do(closing, unix.SYS_CLOSE_RANGE, uintptr(most), p.status-1)
	}
	p.do(closing, unix.SYS_CLOSE_RANGE, p.status+1, math.MaxUint32)
}

// above is fd, or a copy of it that the first descriptors of the child do not overwrite.
func (p *plan) above(fd, first int) uintptr {
	if fd < first {
		var err error
		if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, first); err != nil {
			p.failed = err
			return 0
		}
		p.moved = append(p.moved, fd)
	}
	return uintptr(fd)
}

// record adds pid and start time to the line of the records. If the master has died, the
// file may be its successor's and is left alone.
func (p *plan) record(file uintptr, line int) {
	if line == 0 || !procfs.IsOwn() {
		return
	}
	text := recordHead(0, 0)
	clear := func(field []byte) []byte {
		copy(field, slices.Repeat([]byte{' '}, len(field)))
		return field
	}
	p.pids = append(p.pids, clear(text[:recordStart-1]))
	p.start, p.stat, p.statPath = clear(text[recordStart:len(text)-1]), make([]byte, os.Getpagesize()), p.text("/proc/self/stat")
	p.start[0] = '0' // of no process, if it can't be read
	c := p.do("find its master", unix.SYS_GETPPID)
	c.want, c.quiet, c.later = uintptr(os.Getpid()), true, 2
	c = p.do("record itself", unix.SYS_PWRITE64, file, at(p, &text[0]), uintptr(len(text)), uintptr(line)*recordSize)
	c.quiet, c.later = true, 1 // on a full disk
}

// resetOOMScore gives the worker the default score. Lowering it may be forbidden
// (proc_pid_oom_score_adj(5)); then it stays.
func (p *plan) resetOOMScore() {
	const file = "/proc/self/oom_score_adj"
	if score, err := os.ReadFile(file); err == nil && string(score) != "0\n" {
		p.tryWrite("reset its OOM score", file, "0")
	}
}

// tryWrite adds the writing of a file, whose failure is no matter.
func (p *plan) tryWrite(doing, file, text string) {
	c := p.do(doing, unix.SYS_OPENAT, cwd, p.text(file), unix.O_WRONLY|unix.O_CLOEXEC)
	c.quiet, c.later = true, 2
	c = p.do(doing, unix.SYS_WRITE, 0, p.text(text), uintptr(len(text)))
	c.onLast, c.quiet, c.later = true, true, 1
}

// pin leaves one of the CPUs that the master may use.
func (p *plan) pin(slot int) error {
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return err
	}
	turn := slot % may.Count()
	for cpu := 0; turn >= 0; cpu++ {
		if may.IsSet(cpu) {
			one.Zero()
			one.Set(cpu)
			turn--
		}
	}
	p.do("pin it to a CPU", unix.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(one), at(p, &one))
	return nil
}

// dropInheritable clears the ambient and the inheritable capabilities, which an exec
// passes on (capabilities(7)). The bounding set stays: it is no privilege, and setuid
// programs (sendmail) need it.
func (p *plan) dropInheritable() error {
	held, err := capabilities()
	if err != nil {
		return err
	}
	p.do(dropping, unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
	if held[0].Inheritable != 0 || held[1].Inheritable != 0 {
		held[0].Inheritable, held[1].Inheritable = 0, 0
		p.setCapabilities(held)
	}
	return nil
}

func (p *plan) setCapabilities(to [2]unix.CapUserData) {
	header := capabilityHeader()
	p.do(dropping, unix.SYS_CAPSET, at(p, &header), at(p, &to[0]))
}

func capabilityHeader() unix.CapUserHeader {
	return unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
}

func capabilities() (held [2]unix.CapUserData, err error) {
	header := capabilityHeader()
	return held, unix.Capget(&header, &held[0])
}

// changeUser sets groups, group and user. A master that runs as that user already needs
// no privilege. Then the capabilities go, unless the worker is root, to whom the exec gives
// root's own: a change of user has dropped them, unless securebits are set.
func (p *plan) changeUser(u *Credential) {
	user := unix.Geteuid()
	if u != nil && !alreadyIs(u) {
		groups := uintptr(0)
		if len(u.Groups) > 0 {
			groups = at(p, &u.Groups[0])
		}
		gid, uid := uintptr(u.GID), uintptr(u.UID)
		p.do(changingUser, unix.SYS_SETGROUPS, uintptr(len(u.Groups)), groups)
		p.do(changingUser, unix.SYS_SETRESGID, gid, gid, gid)
		p.do(changingUser, unix.SYS_SETRESUID, uid, uid, uid)
		user = int(u.UID)
	}
	if user != 0 {
		p.setCapabilities([2]unix.CapUserData{})
	}
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

// A signalAction is the kernel's struct sigaction of no handler: SIG_DFL. No architecture
// has a longer one.
type signalAction [8]uintptr

const (
	signals     = 65 // one more than the highest number
	signalsSize = 8  // of a set of them, in the kernel
)

// resetSignals sets every signal to its default action, ignored ones too, and unblocks
// all: execve(2) keeps ignored and blocked signals.
func (p *plan) resetSignals() {
	const resetting = "reset its signals"
	byDefault := at(p, new(signalAction))
	for sig := unix.Signal(1); sig < signals; sig++ {
		if sig != unix.SIGKILL && sig != unix.SIGSTOP {
			p.do(resetting, unix.SYS_RT_SIGACTION, uintptr(sig), byDefault, 0, signalsSize)
		}
	}
	p.do(resetting, unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, at(p, new(uint64)), 0, signalsSize)
}

// execute runs the program, from an open file if there is one (execveat(2)).
func (p *plan) execute(s *Spec, file uintptr) {
	env := slices.DeleteFunc(slices.Clone(s.Env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(s.PIDIn, name)
	})
	argv, envv := p.texts(s.Args), p.texts(env)
	envv = envv[:len(envv)-1]
	for _, name := range s.PIDIn {
		const digits = 10 // of the highest pid, and one for the end
		value := append([]byte(name+"="), make([]byte, digits+1)...)
		p.pids = append(p.pids, value[len(name)+1:])
		envv = append(envv, &value[0])
	}
	envv = append(envv, nil)
	args, vars := at(p, &argv[0]), at(p, &envv[0])
	if s.File != nil {
		p.do(executing, unix.SYS_EXECVEAT, file, p.text(""), args, vars, unix.AT_EMPTY_PATH)
	} else {
		p.do(executing, unix.SYS_EXECVE, p.text(s.Path), args, vars)
	}
}

// originalNoFile is the limit on open files that this process was started with. Go's
// runtime has raised the soft limit, and restores it at an exec, even if that fails; nothing
// else tells it. Afterwards this process has the hard limit. Only the first call finds it.
func originalNoFile() (was unix.Rlimit) {
	_ = syscall.Exec("", []string{""}, nil)
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &was)
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: was.Max, Max: was.Max})
	return was
}
