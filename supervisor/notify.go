package supervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
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
	conn    *net.UnixConn
	uid     uint32 // whose messages count
}

func newNotifySocket(dir, name string, user *User) (*notifySocket, error) {
	s := &notifySocket{address: filepath.Join(dir, name), uid: uint32(os.Geteuid())}
	if user != nil {
		s.uid = user.UID
	}
	err := s.listen()
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || len(s.address) >= maxPath {
		s.address = fmt.Sprintf("@forkd/%d/%s", os.Getpid(), name)
		err = s.listen()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make the worker's notify socket: %w", err)
	}
	if !s.abstract() {
		err = os.Chmod(s.address, 0o600)
		if err == nil && user != nil {
			err = os.Chown(s.address, int(user.UID), int(user.GID))
		}
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

func (s *notifySocket) listen() (err error) {
	s.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.address, Net: "unixgram"})
	return err
}

func (s *notifySocket) abstract() bool { return strings.HasPrefix(s.address, "@") }

func (s *notifySocket) close() {
	s.conn.Close()
	if !s.abstract() {
		os.Remove(s.address)
	}
}

// receive calls ready for each READY=1 that counts, until the socket is closed.
// Descriptors that came along are closed at once, which is also how BARRIER=1 is
// answered. A message that was cut counts for nothing.
func (s *notifySocket) receive(ready func()) {
	data := make([]byte, maxDatagram)
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*253)) // SCM_MAX_FD
	for {
		n, oobn, flags, _, err := s.conn.ReadMsgUnix(data, oob)
		if err != nil {
			return
		}
		uid, known := credentials(oob[:oobn])
		if !known || uid != s.uid || flags&unix.MSG_TRUNC != 0 {
			continue
		}
		for line := range strings.SplitSeq(string(data[:n]), "\n") {
			if line == "READY=1" {
				ready()
			}
		}
	}
}

// credentials returns whose message it was, and closes what descriptors came.
func credentials(oob []byte) (uid uint32, known bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, false
	}
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			uid, known = cred.Uid, true
		}
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}
	return uid, known
}

// withFD runs f on a connection's descriptor.
func withFD(conn *net.UnixConn, f func(fd int) error) error {
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
