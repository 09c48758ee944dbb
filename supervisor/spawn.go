package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/ipc"
)

// spawn is the order to start one worker, complete: what runs it needs nothing
// of the loop's.
type spawn struct {
	id        pool.ID
	cfg       Config
	release   *release
	sockets   []int // the slot's, borrowed
	listeners []sockets.Listener
	notifyDir string
	null      int
	output    *output // nil: the worker inherits the master's own
}

// run makes the worker's side of things and starts it. It blocks; the loop has
// it run beside itself. What it returns is the loop's.
func (s spawn) run(children *process.Children) (*worker, error) {
	w := &worker{id: s.id, page: -1}
	var passed []int // closed here, whatever happens: the worker has its own
	defer func() {
		for _, fd := range passed {
			unix.Close(fd)
		}
	}()
	spec, err := s.spec()
	if err != nil {
		return nil, err
	}
	if s.output != nil {
		read, write, err := newPipe()
		if err != nil {
			return nil, err
		}
		passed = append(passed, write)
		spec.Files[1], spec.Files[2] = write, write
		// It ends when the last holder of the other end does, or at once where
		// the worker does not start.
		go capture(read, s.output, fmt.Sprintf("%s.%d | ", s.cfg.Name, s.id.Slot))
	}
	if w.notify, err = newNotifySocket(s.notifyPath(), s.cfg.User); err != nil {
		return nil, err
	}
	if s.cfg.Channel {
		var theirs int
		if w.channel, theirs, err = newChannel(); err != nil {
			w.forget()
			return nil, err
		}
		passed = append(passed, theirs)
		if w.page, err = ipc.NewPage(); err != nil {
			w.forget()
			return nil, err
		}
		spec.Files = append(spec.Files, theirs, w.page)
	}
	if w.process, err = children.Start(spec); err != nil {
		w.forget()
		return nil, err
	}
	return w, nil
}

func (s spawn) notifyPath() string {
	return filepath.Join(s.notifyDir, fmt.Sprintf("notify.%d.%d", s.id.Slot, s.id.Attempt))
}

// spec is the worker without what is made anew for it.
func (s spawn) spec() (process.Spec, error) {
	scope := s.scope()
	args := make([]string, len(s.cfg.Command))
	for i, arg := range s.cfg.Command {
		expanded, err := scope.expand(arg)
		if err != nil {
			return process.Spec{}, err
		}
		args[i] = expanded
	}
	env, err := s.environment(scope)
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
		Files:       append([]int{s.null, 1, 2}, s.sockets...),
		Umask:       s.cfg.Umask,
		ParentDeath: s.cfg.StopSignal,
		ListenPID:   s.passesSockets(),
	}
	if u := s.cfg.User; u != nil {
		spec.User = &process.Credential{UID: u.UID, GID: u.GID, Groups: u.Groups}
	}
	return spec, nil
}

func (s spawn) passesSockets() bool { return s.cfg.Systemd && len(s.sockets) > 0 }

func (s spawn) scope() scope {
	sc := scope{
		fds:   map[string]int{},
		ports: map[string]int{},
		slot:  s.id.Slot, generation: s.id.Generation,
	}
	for i, l := range s.listeners {
		if i == 0 {
			sc.first = l.Name
		}
		sc.fds[l.Name], sc.ports[l.Name] = ipc.FirstFD+i, l.Port
	}
	return sc
}

// environment is the master's own, without what an outer supervisor said to the
// master, then the configured one, then what the contract promises
// (docs/contract.md, section 3). Later entries win.
func (s spawn) environment(scope scope) ([]string, error) {
	vars := map[string]string{}
	for _, entry := range os.Environ() {
		key, value, _ := strings.Cut(entry, "=")
		if !ipc.Private(key) {
			vars[key] = value
		}
	}
	if u := s.cfg.User; u != nil {
		vars["USER"], vars["LOGNAME"], vars["HOME"] = u.Name, u.Name, u.Home
	}
	if len(s.listeners) > 0 {
		vars[ipc.EnvPort] = strconv.Itoa(s.listeners[0].Port)
	}
	for key, value := range s.cfg.Env {
		expanded, err := scope.expand(value)
		if err != nil {
			return nil, fmt.Errorf("env %s: %w", key, err)
		}
		vars[key] = expanded
	}
	s.contract(vars)
	env := make([]string, 0, len(vars))
	for key, value := range vars {
		env = append(env, key+"="+value)
	}
	return env, nil
}

func (s spawn) contract(vars map[string]string) {
	vars[ipc.EnvNotifySocket] = s.notifyPath()
	vars[ipc.EnvApp] = s.cfg.Name
	vars[ipc.EnvSlot] = strconv.Itoa(s.id.Slot)
	vars[ipc.EnvSlots] = strconv.Itoa(s.cfg.Workers)
	vars[ipc.EnvGeneration] = strconv.Itoa(s.id.Generation)
	vars[ipc.EnvNodeAppInstance] = strconv.Itoa(s.id.Slot)
	if s.passesSockets() {
		names := make([]string, len(s.listeners))
		for i, l := range s.listeners {
			names[i] = l.Name
		}
		vars[ipc.EnvListenFDs] = strconv.Itoa(len(s.sockets))
		vars[ipc.EnvListenFDNames] = strings.Join(names, ":")
	}
	if s.cfg.Channel {
		vars[ipc.EnvChannelFD] = strconv.Itoa(ipc.FirstFD + len(s.sockets))
		vars[ipc.EnvPageFD] = strconv.Itoa(ipc.FirstFD + len(s.sockets) + 1)
	}
}

// openNull opens what every worker has as its standard input: a worker that read
// the master's terminal would be stopped by it.
func openNull() (int, error) {
	fd, err := unix.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open /dev/null: %w", err)
	}
	return fd, nil
}
