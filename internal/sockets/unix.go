package sockets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// unixSocket is one unix socket for all slots, and its file.
type unixSocket struct {
	single
	at   socketFile
	said string // the last complaint that still holds
}

func newUnix(s *Set, l Listener, path string) *unixSocket {
	return &unixSocket{single: single{set: s, listener: l, sock: socket{fd: -1}}, at: fileAt(path)}
}

func (u *unixSocket) adopt(given []*passed) (err error) {
	u.sock, err = given[0].adopted(u.listener)
	if !u.sock.held {
		u.at.recognise(u.sock.fd)
	}
	return err
}

// listenUnix sets the backlog and reads back what the kernel made of it. Where
// the kernel cannot be asked, that is not known and never looked after.
func (m *socket) listenUnix(backlog int) error {
	if err := unix.Listen(m.fd, backlog); err != nil {
		return os.NewSyscallError("listen", err)
	}
	state, err := inspectUnix(inode(m.fd))
	if err != nil {
		state.backlog = 0
	}
	m.backlog = state.backlog
	return nil
}

// inode is a socket's own, as /proc shows it; not that of its file.
func inode(fd int) uint64 {
	var stat unix.Stat_t
	if unix.Fstat(fd, &stat) != nil {
		return 0
	}
	return stat.Ino
}

func (u *unixSocket) open(slot int) error {
	if u.sock.fd < 0 {
		if err := u.bind(); err != nil {
			return err
		}
	}
	u.sock.parked = false
	u.slots.set(slot, true)
	return nil
}

// bind makes the socket and its file, and changes nothing when it fails. Nobody
// can connect before it listens, and then its permissions are set.
func (u *unixSocket) bind() error {
	at := fileAt(u.at.path)
	if err := at.clear(u.listener, u.set.own, &u.set.closer); err != nil {
		return err
	}
	kind := unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	if u.listener.Nonblocking {
		kind |= unix.SOCK_NONBLOCK
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind, 0)
	if err != nil {
		return at.explain(u.listener, os.NewSyscallError("socket", err))
	}
	sock := socket{fd: fd, closer: &u.set.closer}
	if err = at.bind(fd, u.listener.Perm); err == nil {
		if err = sock.listen(u.listener.Backlog); err != nil {
			at.remove()
		}
	}
	if err != nil {
		sock.close()
		return at.explain(u.listener, err)
	}
	u.sock, u.at = sock, at
	if u.listener.Owner != nil {
		u.give()
	}
	return nil
}

func (u *unixSocket) configure(l Listener) {
	before := u.listener
	u.listener = l
	if u.sock.fd < 0 {
		return
	}
	u.sock.reconfigure(u.set, before, l, "")
	if u.sock.held {
		return
	}
	if l.Perm != before.Perm {
		perm, err := l.mode()
		if err == nil {
			err = u.at.chmod(perm)
		}
		if err != nil {
			u.set.notice("cannot set the mode of %s: %v", l, err)
		}
	}
	if l.owner() != before.owner() {
		u.give()
	}
}

// give has the file belong to whom it should. Nothing depends on it but who may
// connect, and remove it.
func (u *unixSocket) give() {
	if err := u.at.chown(u.listener.owner()); err != nil {
		u.set.notice("cannot set the owner of %s: %v", u.listener, err)
	}
}

// mend brings back what a worker took: the file, the backlog, and, where it has
// shut the socket down, the socket, which cannot be revived as TCP's can.
func (u *unixSocket) mend(int) (undone string, err error) {
	if u.sock.fd < 0 {
		return "", nil
	}
	if hungUp(u.sock.fd) {
		return u.mendShut(), nil
	}
	if state, err := inspectUnix(inode(u.sock.fd)); err == nil && state.backlog != u.sock.backlog {
		if err := u.sock.listen(u.listener.Backlog); err != nil {
			return "", fmt.Errorf("cannot listen again on %s: %w", u.listener, err)
		}
		undone = "a worker had changed the backlog"
	}
	if u.sock.held {
		return undone, nil
	}
	switch now, err := u.at.look(); {
	case err != nil:
		u.complain("cannot look after %s: %v", u.listener, err)
	case now == fileOurs:
		u.said = ""
	case now == fileStrange:
		u.complain("listener %s: somebody else has put a file at %s: new connections do not reach the app until it is gone", u.listener.Name, u.listener.Path)
	default:
		if bound := u.mendFile(); bound != "" {
			undone = joinWords(undone, bound)
		}
	}
	return undone, nil
}

// mendFile brings the public name back, by the other one where that is there.
func (u *unixSocket) mendFile() (undone string) {
	switch err := u.at.link(); {
	case err == nil:
		return fmt.Sprintf("listener %s: unix path bound again: %s was unlinked", u.listener.Name, u.listener.Path)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNotOurs):
		return u.bindAnew("the path was unlinked", "have the old one")
	default:
		u.complain("listener %s: the path was unlinked, and cannot be linked again yet: %v: it is tried again each second", u.listener.Name, err)
		return ""
	}
}

// mendShut is for a socket that a worker has shut down: it refuses connections
// for ever. systemd's can be replaced by systemd alone.
func (u *unixSocket) mendShut() (undone string) {
	if u.sock.held {
		u.complain("listener %s: a worker has shut the socket down that systemd passed as %q, which nothing undoes: clients are refused at %s: stop the app, restart the socket unit and start the app again",
			u.listener.Name, u.sock.unit, u.listener.Path)
		return ""
	}
	return u.bindAnew("a worker has shut the socket down, which nothing undoes", "have the dead one")
}

// complain gives a notice that is true at every look once.
func (u *unixSocket) complain(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); text != u.said {
		u.said = text
		u.set.notice("%s", text)
	}
}

// bindAnew replaces the socket by another one, that only workers started from
// now on have. The old one stays until there is a new one, and is the workers'
// then: what is queued there is served, if it still can be.
func (u *unixSocket) bindAnew(why, theyHave string) (undone string) {
	old := u.sock
	if err := u.bind(); err != nil {
		u.complain("listener %s: %s, and no other can be bound yet: %v: it is tried again each second", u.listener.Name, why, err)
		return ""
	}
	u.set.forget(&old)
	old.close()
	u.said = ""
	return fmt.Sprintf("listener %s: unix path bound again: %s, and workers that run %s: `forkd reload %s` starts others", u.listener.Name, why, theyHave, u.set.app)
}

// hungUp reports whether somebody has called shutdown on a listening unix
// socket: it refuses connections then, whatever else it says.
func hungUp(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP) != 0
}

// queue asks the kernel, which may not have been built to say: then one means
// that there is something.
func (u *unixSocket) queue(slot int) (waiting int, listens bool) {
	if u.sock.fd < 0 || slot != u.slots.first() || hungUp(u.sock.fd) {
		return 0, false
	}
	if state, err := inspectUnix(inode(u.sock.fd)); err == nil {
		return state.queue, true
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(u.sock.fd), Events: unix.POLLIN}}, 0)
	return n, err == nil
}

// closeSlot ends the socket with the last slot.
func (u *unixSocket) closeSlot(slot int) error {
	if !u.slots.has(slot) {
		return nil
	}
	u.slots.set(slot, false)
	switch {
	case u.slots.first() >= 0:
	case u.sock.held:
		u.sock.parked = true
	default:
		u.vanish()
		u.sock.endUnix()
	}
	return nil
}

func (u *unixSocket) finish() {
	u.vanish()
	u.sock.close()
}

// vanish takes the socket's name away, everywhere.
func (u *unixSocket) vanish() {
	if u.sock.fd >= 0 {
		u.set.forget(&u.sock)
		u.at.remove()
	}
}

func (u *unixSocket) giveBack() []*passed {
	back := u.single.giveBack()
	for _, p := range back {
		p.path = u.at.path
	}
	return back
}

func (u *unixSocket) close() {
	if u.sock.fd >= 0 && !u.sock.held && u.sock.stored == "" {
		u.at.remove()
	}
	u.sock.close()
}

// endUnix closes a unix socket for every holder. Shutting it down refuses new
// connections but keeps those that are queued, for as long as somebody has a
// copy: they are taken and closed. accept(2) does not block after shutdown(2).
func (m *socket) endUnix() {
	if m.fd < 0 {
		return
	}
	fd, shut := m.fd, unix.Shutdown(m.fd, unix.SHUT_RDWR) == nil
	m.fd = -1
	go m.closer.Run(func() {
		for shut {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				break
			}
			unix.Close(conn)
		}
		unix.Close(fd)
	})
}
