package supervisor

import (
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxDatagram bounds a notify message, as systemd does (NOTIFY_BUFFER_MAX).
const maxDatagram = 4096

// notifySocket receives the sd_notify(3) messages of one worker: a socket file
// of its own, that only the worker's user may write to.
type notifySocket struct {
	path string
	conn *net.UnixConn
	uid  uint32 // whose messages count
}

func newNotifySocket(path string, user *User) (*notifySocket, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("cannot make the worker's notify socket: %w", err)
	}
	s := &notifySocket{path: path, conn: conn, uid: uint32(os.Geteuid())}
	err = os.Chmod(path, 0o600)
	if err == nil && user != nil {
		s.uid = user.UID
		err = os.Chown(path, int(user.UID), int(user.GID))
	}
	if err == nil {
		err = withFD(conn, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
		})
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("cannot prepare the worker's notify socket: %w", err)
	}
	return s, nil
}

func (s *notifySocket) close() {
	s.conn.Close()
	os.Remove(s.path)
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
