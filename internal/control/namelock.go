package control

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/procfs"
)

// lockAddress names the abstract unix socket (unix(7)) that locks an app's name without
// a file, and dies with its master. It is the same for all who see this directory by
// this path. Containers that share a network have others, for theirs is on another file
// system.
func lockAddress(dir, app string, uid int) (string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return "", err
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%d\x00%s\x00%s\x00%d", info.Sys().(*syscall.Stat_t).Dev, dir, app, uid))
	return fmt.Sprintf("@forkd/lock/%x", key[:16]), nil
}

// takeName binds the name. The error is a *TakenError where a live process of this
// user's has it; another says why that cannot be known: anybody in the network namespace
// can bind any such name. Then only the lock's file counts.
func (d *RuntimeDir) takeName() error {
	if d.nameLock != nil {
		return nil
	}
	name, err := lockAddress(filepath.Dir(d.Dir), d.App, os.Geteuid())
	if err != nil {
		return err
	}
	ln, err := listenUnix(name, closing.Refuse)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return heldBy(name, d.App)
	case err != nil:
		return fmt.Errorf("cannot bind %s: %v", name, cause(err))
	}
	d.nameLock = ln
	go closeAll(ln)
	return nil
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
	var holder *peer
	conn, err := dial(name)
	if err == nil {
		defer conn.Close()
		holder, err = peerOf(conn.UnixConn)
	}
	switch {
	case err != nil:
		return fmt.Errorf("cannot see who has %s: %v", name, cause(err))
	case int(holder.Uid) != os.Geteuid():
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
	stat, err := procfs.ReadStat(pid)
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	return stat.Exits
}
