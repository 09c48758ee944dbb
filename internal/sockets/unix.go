package sockets

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// unixSocket is one unix socket for all slots.
type unixSocket struct {
	*boundAddress

	file   socketFile
	warned string // the last warning, while it holds
}

// bind sets the file's permissions before anybody can connect.
func (u *unixSocket) bind(int) (*socket, error) {
	file := fileAt(u.at.path)
	fd, err := u.listener.socket(unix.AF_UNIX, 0)
	if err != nil {
		return nil, file.explain(u.listener, err)
	}
	m := newSocket(fd)
	m.closer = &u.set.closer
	if err := file.clear(u.listener, u.set.own, m.closer); err != nil {
		m.close()
		return nil, err
	}
	if err = file.bind(fd, u.listener.Perm); err == nil {
		err = m.listen(u.listener.Backlog)
	}
	if err != nil {
		file.remove()
		file.putBack()
		m.close()
		return nil, file.explain(u.listener, err)
	}
	file.keep()
	u.file = file
	if owner := u.listener.owner(); u.listener.Owner != nil || statOf(file.info).Uid != owner.UID {
		u.warnOf("owner", u.file.chown(owner))
	}
	return m, nil
}

func (u *unixSocket) configure(before Listener) {
	if u.file.info == nil {
		return
	}
	if u.listener.Perm != before.Perm {
		perm, err := u.listener.mode()
		if err == nil {
			err = u.file.chmod(perm)
		}
		u.warnOf("mode", err)
	}
	if u.listener.owner() != before.owner() {
		u.warnOf("owner", u.file.chown(u.listener.owner()))
	}
}

// warnOf gives a notice: the error only affects who can connect.
func (u *unixSocket) warnOf(what string, err error) {
	if err != nil {
		u.set.notice("cannot set the %s of %s: %v", what, u.listener, err)
	}
}

// mend replaces a socket that was shut down: unlike a TCP socket it cannot listen again.
func (u *unixSocket) mend(m *socket) (undone []string, err error) {
	switch {
	case hungUp(m.fd) && m.unitOwned: // only systemd can replace it
		u.warnOnce("listener %s: a worker has shut the socket down that systemd passed as %q, which nothing undoes: clients are refused at %s: stop the app, restart the socket unit and start the app again",
			u.listener.Name, m.passedAs, u.listener.Path)
		return nil, nil
	case hungUp(m.fd):
		return u.bindAgain(m, "a worker has shut the socket down, which nothing undoes", "have the dead one"), nil
	}
	if state, err := m.inspect(); err == nil && state.backlog != m.backlog {
		if err := m.listen(u.listener.Backlog); err != nil {
			return nil, fmt.Errorf("cannot listen again on %s: %w", u.listener, err)
		}
		undone = append(undone, "a worker had changed the backlog")
	}
	if m.unitOwned {
		return undone, nil
	}
	switch ours, err := u.file.isAt(u.file.path); {
	case ours:
		u.warned = ""
	case err == nil:
		u.warnOnce("listener %s: somebody else has put a file at %s: new connections do not reach the app until it is gone", u.listener.Name, u.listener.Path)
	case !errors.Is(err, fs.ErrNotExist):
		u.warnOnce("cannot look after %s: %v", u.listener, err)
	default:
		undone = append(undone, u.mendFile(m)...)
	}
	return undone, nil
}

// mendFile links the path again, or binds another socket if both names are gone.
func (u *unixSocket) mendFile(m *socket) (undone []string) {
	switch err := u.file.link(u.file.second, u.file.path); {
	case err == nil:
		return []string{fmt.Sprintf("listener %s: unix path bound again: %s was unlinked", u.listener.Name, u.listener.Path)}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNotOurs):
		return u.bindAgain(m, "the path was unlinked", "have the old one")
	default:
		u.warnOnce("listener %s: the path was unlinked, and cannot be linked again yet: %v: it is tried again each second", u.listener.Name, err)
		return nil
	}
}

func (u *unixSocket) warnOnce(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); text != u.warned {
		u.warned = text
		u.set.notice("%s", text)
	}
}

// bindAgain replaces the socket for workers started from now on. Running workers keep the
// old one and serve what is queued there.
func (u *unixSocket) bindAgain(m *socket, why, theyHave string) (undone []string) {
	next, err := u.bind(0)
	if err != nil {
		u.warnOnce("listener %s: %s, and no other can be bound yet: %v: it is tried again each second", u.listener.Name, why, err)
		return nil
	}
	u.replace(m, next)
	u.warned = ""
	return []string{fmt.Sprintf("listener %s: unix path bound again: %s, and workers that run %s: `forkd reload %s` starts others", u.listener.Name, why, theyHave, u.set.app)}
}

func (u *unixSocket) flush(*socket) error { return nil } // the queue is systemd's

// discard keeps the file of a stored socket, unless it is to end.
func (u *unixSocket) discard(m *socket, end bool) {
	if end || !m.unitOwned && m.stored == "" {
		u.file.remove()
	}
	u.boundAddress.discard(m, end)
}

// hungUp reports whether a listening unix socket was shut down: it refuses connections.
func hungUp(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP) != 0
}

// inode is the inode of the socket itself, not of its file.
func inode(fd int) uint64 {
	var stat unix.Stat_t
	_ = unix.Fstat(fd, &stat) // else 0
	return stat.Ino
}
