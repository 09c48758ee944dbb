package supervisor

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/cgroup"
	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/placeholder"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/internal/workerlink"
	"github.com/forkd/forkd/ipc"
)

// spawn is all that is needed to start one worker, beside the loop.
type spawn struct {
	id        pool.ID
	slots     int
	cfg       Config
	release   *release
	leaves    *cgroup.Leaves // nil: there are none
	sockets   []int          // the slot's, copied
	inodes    []uint64       // of these
	counting  sockets.Counting
	listeners []sockets.Listener
	dir       *control.RuntimeDir
	closer    *closing.Closer // of what the worker can fill
	log       *slog.Logger
	null      int
	logged    *output.Log
	light     bool // see executor.weigh
}

// run makes what the worker gets and starts it. It blocks.
func (s spawn) run(children *process.Children) (*worker, error) {
	uid, gid := s.cfg.User.ids()
	link, err := workerlink.Open(workerlink.Config{
		Dir: s.dir.Dir, Name: fmt.Sprintf("notify.%d.%d", s.id.Slot, s.id.Attempt),
		UID: uid, GID: gid, Channel: s.cfg.Channel, Closer: s.closer,
	})
	if err != nil {
		return nil, err
	}
	w := &worker{
		id: s.id, cfg: s.cfg, release: s.release, link: link, output: new(output.Tail),
		look: make(chan struct{}, 1), gone: make(chan struct{}), care: newCare(s.cfg.Recycle, time.Now()), taken: awaited{},
	}
	w.care.light = s.light
	w.inodes.Store(&s.inodes)
	w.counting.Store(&s.counting)
	var passed []int
	spec, err := s.spec(link.NotifyAddress())
	if err == nil {
		spec.Files = append(spec.Files, link.Files()...)
		passed, err = s.outputs(w, &spec)
	}
	if l := s.cfg.Limits; err == nil && s.leaves != nil && l.grouped() {
		w.leaf, err = s.leaves.Make(s.id.Slot, cgroup.Limits{Memory: l.MemoryMax, Tasks: l.TasksMax})
		spec.Group = w.leaf.Procs()
	}
	if err == nil {
		w.process, err = children.Start(spec)
	}
	for _, fd := range passed {
		unix.Close(fd) // the worker has its own, or there is none
	}
	link.Passed()
	if err != nil {
		for _, pipe := range w.readers {
			pipe.Close()
		}
		link.Close()
		if w.leaf != nil {
			_ = w.leaf.Remove()
		}
		return nil, err
	}
	for i, pipe := range w.readers { // each reader ends with the last holder of the other end
		from := output.Source{Slot: s.id.Slot, Generation: s.id.Generation, PID: w.process.PID(), Stream: [...]string{output.Stdout, output.Stderr}[i]}
		go s.logged.Capture(pipe, from, w.output)
	}
	return w, nil
}

// outputs gives the worker its standard output and error: two pipes, or the master's
// own. The caller closes passed, and where there is an error what is in w.
func (s spawn) outputs(w *worker, spec *process.Spec) (passed []int, err error) {
	if !s.cfg.Log.Captured() {
		for _, fd := range []int{1, 2} {
			if terminal, err := openTerminal(fd); err == nil {
				passed = append(passed, terminal)
				spec.Files[fd] = terminal
			}
		}
		return passed, nil
	}
	for _, fd := range []int{1, 2} {
		read, write, err := output.NewPipe(s.cfg.User.ids())
		if err != nil {
			return passed, err
		}
		passed = append(passed, write)
		spec.Files[fd] = write
		w.readers = append(w.readers, read)
		if name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", write)); err == nil {
			w.pipes = append(w.pipes, name)
		}
	}
	return passed, nil
}

// spec is the process without its output and link.
func (s spawn) spec(notify string) (process.Spec, error) {
	scope := placeholder.NewScope(s.id.Slot, s.id.Generation)
	for i, l := range s.listeners {
		scope.Add(l.Name, l.Network, ipc.FirstFD+i, l.Port)
	}
	args := make([]string, len(s.cfg.Command))
	for i, arg := range s.cfg.Command {
		expanded, err := scope.Expand(arg)
		if err != nil {
			return process.Spec{}, err
		}
		args[i] = expanded
	}
	env, err := s.environment(scope, notify)
	if err != nil {
		return process.Spec{}, err
	}
	path, file := s.release.run()
	spec := process.Spec{
		Path:        path,
		File:        file,
		Args:        args,
		Env:         env,
		Dir:         s.release.directory,
		Slot:        s.id.Slot,
		Files:       append([]int{s.null, 1, 2}, s.sockets...),
		User:        s.cfg.User.credential(),
		Umask:       s.cfg.Umask,
		NoFile:      s.cfg.Limits.NoFile,
		Pin:         s.cfg.Limits.CPUAffinity,
		Light:       s.light,
		ParentDeath: s.cfg.StopSignal,
		Capture:     s.release.pass == "",
	}
	if s.passes(ProtocolSystemd) {
		spec.PIDIn = append(spec.PIDIn, ipc.EnvListenPID)
	}
	if s.cfg.Health.Watchdog > 0 {
		spec.PIDIn = append(spec.PIDIn, ipc.EnvWatchdogPID)
	}
	return spec, nil
}

// passes reports whether there are sockets to tell of by a protocol.
func (s spawn) passes(protocol string) bool {
	return slices.Contains(s.cfg.Protocols, protocol) && len(s.sockets) > 0
}

// environment is what a worker inherits, then what is configured, then what
// docs/contract.md, What a worker is given, promises. Later entries win.
func (s spawn) environment(scope placeholder.Scope, notify string) ([]string, error) {
	vars := map[string]string{}
	for _, entry := range inherited(s.cfg.User) {
		key, value, _ := strings.Cut(entry, "=")
		vars[key] = value
	}
	if u := s.cfg.User; u != nil {
		vars["USER"], vars["LOGNAME"], vars["HOME"] = u.Name, u.Name, u.Home
	}
	if port, ok := scope.Port(); ok {
		vars[ipc.EnvPort] = strconv.Itoa(port)
	}
	for key, value := range s.cfg.Env {
		expanded, err := scope.Expand(value)
		if err != nil {
			return nil, fmt.Errorf("env %s: %w", key, err)
		}
		vars[key] = expanded
	}
	s.preload(vars)
	vars[ipc.EnvNotifySocket] = notify
	s.contract(vars)
	env := make([]string, 0, len(vars))
	for key, value := range vars {
		env = append(env, key+"="+value)
	}
	return env, nil
}

// inherited is the master's environment without forkd's own variables, those of an
// outer supervisor, and, for another user, the login session's. nil: the master's user.
func inherited(user *User) []string {
	another := user.isAnother()
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		key, _, _ := strings.Cut(entry, "=")
		return ipc.Private(key) || another && ofSession(key)
	})
}

func ofSession(key string) bool {
	switch key {
	case "MAIL", "DOAS_USER", "PKEXEC_UID", // pam_mail(8), doas(1), pkexec(1)
		"GPG_AGENT_INFO", "GPG_TTY", "KRB5CCNAME", "GNOME_KEYRING_CONTROL",
		"DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "ICEAUTHORITY", "SESSION_MANAGER",
		"STY", "TMUX", "TMUX_PANE":
		return true
	}
	for _, prefix := range []string{"XDG_", "SUDO_", "SSH_", "DBUS_SESSION_"} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

func (s spawn) contract(vars map[string]string) {
	vars[ipc.EnvApp] = s.cfg.Name
	vars[ipc.EnvSlot] = strconv.Itoa(s.id.Slot)
	vars[ipc.EnvSlots] = strconv.Itoa(s.slots)
	vars[ipc.EnvGeneration] = strconv.Itoa(s.id.Generation)
	vars[ipc.EnvStopSignal] = strings.TrimPrefix(unix.SignalName(s.cfg.StopSignal), "SIG")
	vars[ipc.EnvNodeAppInstance] = strconv.Itoa(s.id.Slot)
	if limit := s.cfg.Redis.MaxConnections; limit > 0 {
		vars[ipc.EnvMaxConnections] = strconv.FormatInt(share(limit, s.id.Slot, s.slots), 10)
	}
	if limit := s.cfg.Health.Watchdog; limit > 0 {
		vars[ipc.EnvWatchdogUsec] = strconv.FormatInt(limit.Microseconds(), 10)
	}
	if s.passes(ProtocolServerStarter) {
		targets := make([]string, len(s.listeners))
		for i, l := range s.listeners {
			target := cmp.Or(l.Path, strings.TrimPrefix(l.String(), ":")) // ":8080" would be a path
			targets[i] = fmt.Sprintf("%s=%d", target, ipc.FirstFD+i)
		}
		vars[ipc.EnvServerStarterPort] = strings.Join(targets, ";")
		vars[ipc.EnvServerStarterGeneration] = vars[ipc.EnvGeneration]
	}
	if s.passes(ProtocolSystemd) {
		names := make([]string, len(s.listeners))
		for i, l := range s.listeners {
			names[i] = l.Name
		}
		vars[ipc.EnvListenFDs] = strconv.Itoa(len(s.sockets))
		vars[ipc.EnvListenFDNames] = strings.Join(names, ":")
	}
	if s.cfg.Channel == ipc.ChannelNone {
		return
	}
	channel := strconv.Itoa(ipc.FirstFD + len(s.sockets))
	if s.cfg.Channel == ipc.ChannelNode {
		vars[ipc.EnvNodeChannelFD], vars[ipc.EnvNodeChannelMode] = channel, "json"
	} else {
		vars[ipc.EnvChannelFD] = channel
	}
	vars[ipc.EnvPageFD] = strconv.Itoa(ipc.FirstFD + len(s.sockets) + 1)
}

// isAnother reports whether it is not the master's own user.
func (u *User) isAnother() bool { return u.uid() != os.Geteuid() }

// uid is the user's, the master's own for nil.
func (u *User) uid() int {
	if u == nil {
		return os.Geteuid()
	}
	return int(u.UID)
}

// ids are the user's, -1 for the master's own.
func (u *User) ids() (uid, gid int) {
	if u == nil {
		return -1, -1
	}
	return int(u.UID), int(u.GID)
}

// credential is the user as a process has it; nil for the master's own.
func (u *User) credential() *process.Credential {
	if u == nil {
		return nil
	}
	return &process.Credential{UID: u.UID, GID: u.GID, Groups: u.Groups}
}

// openNull opens every worker's standard input: reading the master's terminal would
// stop a worker.
func openNull() (int, error) {
	fd, err := unix.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open /dev/null: %w", err)
	}
	return fd, nil
}

// openTerminal opens the terminal behind fd again, only for writing: a worker, whose
// session is another, could otherwise read what is typed. An error if fd is no
// terminal, or one that has closed or that the master may not open.
func openTerminal(fd int) (int, error) {
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		return -1, err
	}
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}
