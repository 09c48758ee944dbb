package workerlink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/pace"
)

// maxDatagram bounds a notify message, as systemd does (NOTIFY_BUFFER_MAX).
const maxDatagram = 4096

// notifySocket receives the sd_notify(3) messages of one worker. Only the worker's user may
// write to its file. If no file can be made (a full disk, a removed directory) it has an
// abstract name (unix(7)): all may write to that, but only the worker's processes count.
type notifySocket struct {
	address string // as NOTIFY_SOCKET has it: a path, or @name
	uid     uint32 // whose messages count, and whose the file is
	gid     int
	closer  *closing.Closer

	mu     sync.Mutex // of what follows: renew runs beside receive and the loop
	conn   *closing.Conn
	inode  uint64 // of its file
	closed bool
}

func newNotifySocket(cfg Config) (*notifySocket, error) {
	s := &notifySocket{address: filepath.Join(cfg.Dir, cfg.Name), uid: uint32(os.Geteuid()), gid: cfg.GID, closer: cfg.Closer}
	if cfg.UID >= 0 {
		s.uid = uint32(cfg.UID)
	}
	conn, inode, err := s.listen()
	if err != nil {
		s.address = fmt.Sprintf("@forkd/%d/%s", os.Getpid(), cfg.Name)
		conn, inode, err = s.listen()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make the worker's notify socket: %w", err)
	}
	s.conn, s.inode = conn, inode
	return s, nil
}

func (s *notifySocket) listen() (*closing.Conn, uint64, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
		return errors.Join(cerr, err)
	}}
	plain, err := config.ListenPacket(context.Background(), "unixgram", s.address)
	if err != nil {
		return nil, 0, err
	}
	conn := closing.NewConn(plain.(*net.UnixConn), s.closer)
	if s.abstract() {
		return conn, 0, nil
	}
	inode, err := s.chown()
	if err != nil {
		conn.Close()
		return nil, 0, err
	}
	return conn, inode, nil
}

// renew makes the socket's file again if it is gone, with another socket. What waits in
// the old one is lost. It may block on the file system.
func (s *notifySocket) renew() error {
	if s.abstract() {
		return nil
	}
	var stat unix.Stat_t
	err := unix.Lstat(s.address, &stat)
	s.mu.Lock()
	lost := !s.closed && (err != nil || stat.Ino != s.inode)
	s.mu.Unlock()
	if !lost {
		return nil
	}
	_ = unix.Unlink(s.address)
	conn, inode, err := s.listen()
	if err != nil {
		return fmt.Errorf("cannot make a worker's notify socket again: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		_ = unix.Unlink(s.address)
		return nil
	}
	s.conn.Close()
	s.conn, s.inode = conn, inode
	return nil
}

// current is the socket that is received from: another one when there was a renew.
func (s *notifySocket) current() *closing.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn
}

// chown gives the socket's file to the worker: the file that bind(2) has made, and no other
// in its place.
func (s *notifySocket) chown() (inode uint64, err error) {
	fd, err := unix.Open(s.address, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return 0, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK || stat.Uid != uint32(os.Geteuid()) || stat.Nlink != 1 {
		return 0, errors.New("somebody else's file is at its path: set FORKD_RUNTIME_DIR to a directory that others can't write to")
	}
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	if err := unix.Chmod(path, 0o600); err != nil || s.uid == stat.Uid && s.gid < 0 {
		return stat.Ino, err
	}
	return stat.Ino, unix.Chown(path, int(s.uid), s.gid)
}

func (s *notifySocket) abstract() bool { return strings.HasPrefix(s.address, "@") }

// close ends receive and removes the socket's file.
func (s *notifySocket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && !s.abstract() {
		os.Remove(s.address)
	}
	s.closed = true
	_ = s.conn.Close() // or again
}

// receive calls heard for each datagram that counts, until the socket is closed. counts
// says whether a process of the worker's user may speak for the worker; ignored gets the
// pids of others. A datagram that was cut does not count.
//
// Descriptors sent along are closed at once. That answers BARRIER=1, so the kernel must not
// refuse them (closing.RefuseRights).
func (s *notifySocket) receive(counts func(sender int) bool, heard func(text string), ignored func(pid int)) {
	data := make([]byte, maxDatagram)
	messages := pace.New(messagesPerSecond, time.Now())
	for {
		conn := s.current()
		n, sender, flags, err := conn.Receive(data)
		switch {
		case err != nil && conn != s.current():
			continue
		case err != nil:
			return
		case sender == nil || flags&unix.MSG_TRUNC != 0:
		case sender.Uid != s.uid || !counts(int(sender.Pid)):
			ignored(int(sender.Pid))
		default:
			heard(string(data[:n]))
		}
		pace.Rest(messages.Take(1, time.Now()), conn.Closed())
	}
}
