package control

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
)

// secondLock is a lock on an app's name that goes with no file: an abstract unix
// socket (unix(7)), which dies with its master. Anybody in the network namespace
// can bind any such name, so that it counts only while a process of this user's
// has it.
type secondLock struct {
	name     string
	listener *net.UnixListener // nil: somebody else has it
}

// secondName is the name for an app in a directory, the same for all who see this
// directory by this path. Containers that share a network have others, for theirs
// is on another file system.
func secondName(dir, app string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return "", &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%d\x00%s\x00%s\x00%d", stat.Dev, dir, app, os.Geteuid()))
	return fmt.Sprintf("@forkd/lock/%x", key[:16]), nil
}

// take binds the name, unless it is bound. The error is a *TakenError where a live
// process of this user's has it, and has words where that cannot be known: then the
// lock's file alone has to do.
func (l *secondLock) take(dir, app string) error {
	name, err := secondName(dir, app)
	if err != nil || l.listener != nil && name == l.name {
		return err
	}
	l.release() // of a directory that was on another file system
	ln, err := listenUnix(name, closing.Refuse)
	if errors.Is(err, unix.EADDRINUSE) {
		return heldBy(name, app)
	}
	if err != nil {
		return fmt.Errorf("cannot bind %s: %w", name, cause(err))
	}
	*l = secondLock{name: name, listener: ln}
	go dismiss(ln)
	return nil
}

func (l *secondLock) release() {
	if l.listener != nil {
		l.listener.Close()
	}
	*l = secondLock{}
}

// dismiss lets go of who has connected to see whose the name is, at a pace: anybody
// may.
func dismiss(ln *net.UnixListener) {
	const pace = 10 * time.Millisecond
	var closer closing.Closer
	for {
		conn, err := ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			closer.Run(func() { conn.Close() })
		}
		time.Sleep(pace)
	}
}

// heldBy says who has a name that cannot be bound.
func heldBy(name, app string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("cannot see who has %s: %w", name, err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		return fmt.Errorf("cannot see who has %s: %w", name, err)
	}
	holder, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED) // of who called listen(2)
	if err != nil {
		return fmt.Errorf("cannot see who has %s: %w", name, err)
	}
	if int(holder.Uid) != os.Geteuid() {
		return fmt.Errorf("a process of uid %d (pid %d) has %s", holder.Uid, holder.Pid, name)
	}
	return &TakenError{App: app, PID: int(holder.Pid)}
}

// ends reports whether a process is gone or about to be: it is given SIGKILL, or
// gives up what it has. Locks may be held for that moment still, and by a child of
// its that is not yet another program.
func ends(pid int) bool {
	if pid <= 0 {
		return false // not known
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	// pid (name) state ..., and the name may hold anything (proc_pid_stat(5)).
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const flags, pending = 9 - 3, 31 - 3 // the state is field 3
	if len(fields) <= pending {
		return false
	}
	const exiting = 0x4 // PF_EXITING in include/linux/sched.h
	flag, _ := strconv.ParseUint(fields[flags], 10, 64)
	signals, _ := strconv.ParseUint(fields[pending], 10, 64)
	return fields[0] == "Z" || fields[0] == "X" || flag&exiting != 0 || signals&(1<<(unix.SIGKILL-1)) != 0
}
