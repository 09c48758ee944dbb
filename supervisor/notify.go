package supervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
)

// maxDatagram bounds a notify message, as systemd does (NOTIFY_BUFFER_MAX).
const maxDatagram = 4096

// maxPath is what a socket's path has room for, with its final zero (unix(7)).
const maxPath = 108

// notifySocket receives the sd_notify(3) messages of one worker: a socket of its
// own, with a file that only the worker's user may write to. Where the disk is
// full, or the path too long for a socket, it has an abstract name instead
// (unix(7)): anybody may write to that, and counts as little as ever.
type notifySocket struct {
	address string // as NOTIFY_SOCKET has it: a path, or @name
	conn    *closing.Conn
	uid     uint32 // whose messages count
}

func newNotifySocket(dir, name string, user *User, closer *closing.Closer) (*notifySocket, error) {
	s := &notifySocket{address: filepath.Join(dir, name), uid: uint32(os.Geteuid())}
	if user != nil {
		s.uid = user.UID
	}
	err := s.listen(closer)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || len(s.address) >= maxPath {
		s.address = fmt.Sprintf("@forkd/%d/%s", os.Getpid(), name)
		err = s.listen(closer)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make the worker's notify socket: %w", err)
	}
	if !s.abstract() {
		err = s.give(user)
	}
	if err == nil {
		err = withFD(s.conn, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
		})
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("cannot prepare the worker's notify socket: %w", err)
	}
	return s, nil
}

func (s *notifySocket) listen(closer *closing.Closer) error {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.address, Net: "unixgram"})
	if err == nil {
		s.conn = closing.NewConn(conn, closer)
	}
	return err
}

// give makes the socket's file the worker's alone: the very file that bind(2) has
// made, and no other that has come into its place.
func (s *notifySocket) give(user *User) error {
	fd, err := unix.Open(s.address, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK || stat.Uid != uint32(os.Geteuid()) || stat.Nlink != 1 {
		return errors.New("somebody else's file is at its path: set FORKD_RUNTIME_DIR to a directory that others can't write to")
	}
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	if err := unix.Chmod(path, 0o600); err != nil || user == nil {
		return err
	}
	return unix.Chown(path, int(user.UID), int(user.GID))
}

func (s *notifySocket) abstract() bool { return strings.HasPrefix(s.address, "@") }

// close ends receive and takes the socket's file away. Closing again does
// nothing.
func (s *notifySocket) close() {
	if s.conn.Close() == nil && !s.abstract() {
		os.Remove(s.address)
	}
}

// notification is what one datagram said of what the master listens to
// (sd_notify(3)). Its zero value is nothing.
type notification struct {
	ready    bool
	stopping bool
	alive    bool   // WATCHDOG=1
	stated   bool   // there was a STATUS
	status   string // at most maxStatus bytes of one line of UTF-8
}

// maxStatus is where a worker's STATUS is cut, in bytes.
const maxStatus = 512

// parseNotification reads a datagram. What it does not know, MAINPID and
// descriptors for a store among it, it lets pass.
func parseNotification(data []byte) (n notification) {
	for line := range strings.SplitSeq(string(data), "\n") {
		switch line {
		case "READY=1":
			n.ready = true
		case "STOPPING=1":
			n.stopping = true
		case "WATCHDOG=1":
			n.alive = true
		default:
			if status, ok := strings.CutPrefix(line, "STATUS="); ok {
				n.stated, n.status = true, presentable(status)
			}
		}
	}
	return n
}

// presentable is a text from a worker without what could disturb a terminal or a
// log, cut to maxStatus.
func presentable(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) > maxStatus {
		text = strings.ToValidUTF8(text[:maxStatus], "") // a rune may be cut in two
	}
	return text
}

// receive calls heard for each message that says something and counts, until the
// socket is closed. counts says whether a sender of the right uid may speak for the
// worker, by its pid; those that may not are told to ignored.
//
// Descriptors that came along are closed at once, which is also how BARRIER=1 is
// answered: that is why the kernel is not to refuse them (closing.RefuseRights). A
// message that was cut counts for nothing. A flood is read at the pace that a
// worker may have.
func (s *notifySocket) receive(counts func(sender int) bool, heard func(notification), ignored func(pid int)) {
	data := make([]byte, maxDatagram)
	messages := newPace(messagesPerSecond, time.Now())
	for {
		n, sender, flags, err := s.conn.Receive(data)
		if err != nil {
			return
		}
		switch said := parseNotification(data[:n]); {
		case sender == nil || flags&unix.MSG_TRUNC != 0 || said == (notification{}):
		case sender.Uid != s.uid || !counts(int(sender.Pid)):
			ignored(int(sender.Pid))
		default:
			heard(said)
		}
		if !rest(messages.take(1, time.Now()), s.conn.Closed()) {
			return
		}
	}
}

// withFD runs f on a connection's descriptor.
func withFD(conn syscall.Conn, f func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}
