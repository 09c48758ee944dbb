package control

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/procfs"
)

// nameLock is a lock on an app's name without a file: an abstract unix socket
// (unix(7)), which dies with its master. Anybody in the network namespace can bind
// any such name, so that it counts only while a process of this user's has it.
type nameLock struct {
	name     string
	listener *net.UnixListener // nil: somebody else has it
}

// lockAddress is the socket's name for an app in a directory, the same for all who
// see this directory by this path. Containers that share a network have others, for
// theirs is on another file system.
func lockAddress(dir, app string) (string, error) {
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
// process of this user's has it; another says why that cannot be known: then only
// the lock's file counts.
func (l *nameLock) take(dir, app string) error {
	name, err := lockAddress(dir, app)
	if err != nil || l.listener != nil && name == l.name {
		return err
	}
	l.release() // of a directory that was on another file system
	ln, err := listenUnix(name, closing.Refuse)
	if errors.Is(err, unix.EADDRINUSE) {
		return heldBy(name, app)
	}
	if err != nil {
		return fmt.Errorf("cannot bind %s: %v", name, cause(err))
	}
	*l = nameLock{name: name, listener: ln}
	go closeAll(ln)
	return nil
}

func (l *nameLock) release() {
	if l.listener != nil {
		l.listener.Close()
	}
	*l = nameLock{}
}

// closeAll closes the connections of those who look whose the name is, at a bounded
// rate: anybody may.
func closeAll(ln *net.UnixListener) {
	const interval = 10 * time.Millisecond
	var closer closing.Closer
	for {
		conn, err := ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			closing.NewConn(conn, &closer).Close()
		}
		time.Sleep(interval)
	}
}

// heldBy says who has a name that cannot be bound.
func heldBy(name, app string) error {
	conn, err := dial(name)
	if err != nil {
		return fmt.Errorf("cannot see who has %s: %v", name, cause(err))
	}
	defer conn.Close()
	holder, err := peerOf(conn.UnixConn)
	if err != nil {
		return fmt.Errorf("cannot see who has %s: %v", name, cause(err))
	}
	if int(holder.Uid) != os.Geteuid() {
		return fmt.Errorf("a process of uid %d (pid %d) has %s", holder.Uid, holder.Pid, name)
	}
	return &TakenError{App: app, PID: int(holder.Pid)}
}

// ends reports whether a process is gone or about to be: it has been sent SIGKILL, or
// is exiting. Until it is gone it may hold its locks, and a child of its that has not
// yet called execve(2) may too.
func ends(pid int) bool {
	if pid <= 0 {
		return false // not known
	}
	fields, err := procfs.Stat(pid)
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	const flags, pending = 9 - 3, 31 - 3 // the state is field 3
	if len(fields) <= pending {
		return false
	}
	const exiting = 0x4 // PF_EXITING in include/linux/sched.h
	flag, _ := strconv.ParseUint(string(fields[flags]), 10, 64)
	signals, _ := strconv.ParseUint(string(fields[pending]), 10, 64)
	state := fields[0][0]
	return state == 'Z' || state == 'X' || flag&exiting != 0 || signals&(1<<(unix.SIGKILL-1)) != 0
}
