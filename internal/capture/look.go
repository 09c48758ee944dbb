package capture

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// seen is a Call and the link of its socket in /proc.
type seen struct {
	Call

	link string
}

// look reads what the call is about. !ok: it is to go on. Checks that cost little come
// first: a proxy may bind to connect thousands of times a second. s.Socket is to be closed.
//
// Reading a process's memory can block for as long as a file system that the process has
// mapped, and nothing ends it. So looks are taken one after the other, and one process
// holds up one thread and its own worker.
func (l *Listener) look(n *notification) (s seen, ok bool) {
	s.Listen = n.Number == unix.SYS_LISTEN
	s.FD, s.Socket = int(int32(n.Args[0])), -1
	tid := int(n.TID)
	var at name
	if !s.Listen {
		if at, ok = nameFrom(tid, n.Args[1], n.Args[2]); !ok {
			return s, false
		}
	}
	socket, err := l.copyOf(tid, s.FD)
	if err != nil {
		return s, false
	}
	s.Socket = socket
	family, ok := stream(socket)
	if !ok {
		return s, false
	}
	bound, isBound := nameOf(socket)
	switch {
	case s.Listen && !isBound, !s.Listen && (isBound || at.family != family || l.foreign(socket, family)):
		return s, false
	case s.Listen:
		at = bound
	}
	if err := s.fill(tid, at); err != nil {
		return s, false
	}
	return s, l.valid(n)
}

// fill completes a Call about a stream socket at a name.
func (s *seen) fill(tid int, at name) (err error) {
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	s.Network, s.Address, s.V6 = "tcp", at.address, at.family == unix.AF_INET6
	if at.family == unix.AF_UNIX {
		s.Network = "unix"
		s.Path, err = pathIn(tid, at.path)
		note(err)
	}
	if s.V6 {
		only, err := unix.GetsockoptInt(s.Socket, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		note(err)
		s.V6Only = only != 0
	}
	s.Cookie, err = unix.GetsockoptUint64(s.Socket, unix.SOL_SOCKET, unix.SO_COOKIE)
	note(err)
	flags, err := unix.FcntlInt(uintptr(s.Socket), unix.F_GETFL, 0)
	note(err)
	s.Nonblocking = flags&unix.O_NONBLOCK != 0
	text, err := field(fmt.Sprintf("/proc/%d/fdinfo/%d", tid, s.FD), "flags:")
	note(err)
	open, err := strconv.ParseUint(text, 8, 32)
	note(err)
	s.CloseOnExec = open&unix.O_CLOEXEC != 0
	s.PID, err = processOf(tid)
	note(err)
	s.link, err = linkOf("self", s.Socket)
	note(err)
	return errors.Join(errs...)
}

// copyOf duplicates a descriptor of a thread.
func (l *Listener) copyOf(tid, fd int) (int, error) {
	if l.thread == 0 {
		return l.copyOfLeader(tid, fd)
	}
	pidfd, err := unix.PidfdOpen(tid, l.thread)
	if errors.Is(err, unix.EINVAL) {
		l.thread = 0
		return l.copyOfLeader(tid, fd)
	}
	if err != nil {
		return -1, err
	}
	defer unix.Close(pidfd)
	return unix.PidfdGetfd(pidfd, fd, 0)
}

// copyOfLeader duplicates the process's descriptor, which is the thread's unless that has
// descriptors of its own (CLONE_FILES).
func (l *Listener) copyOfLeader(tid, fd int) (int, error) {
	leader, err := processOf(tid)
	if err != nil {
		return -1, err
	}
	pidfd, err := unix.PidfdOpen(leader, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(pidfd)
	socket, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return -1, err
	}
	ours, err := linkOf("self", socket)
	theirs, failed := linkOf(strconv.Itoa(tid), fd)
	if err != nil || failed != nil || ours != theirs {
		l.discard(socket)
		return -1, unix.EBADF
	}
	return socket, nil
}

// stream returns the family of a stream socket of TCP or unix(7); !ok: it is none.
func stream(fd int) (family int, ok bool) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM {
		return 0, false
	}
	family, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || family == unix.AF_UNIX {
		return family, err == nil
	}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	return family, err == nil && slices.Contains([]int{unix.AF_INET, unix.AF_INET6}, family) &&
		slices.Contains([]int{unix.IPPROTO_TCP, unix.IPPROTO_MPTCP}, protocol)
}

// foreign reports whether a TCP socket is in another network namespace, as that of a
// container's process: its port is not this host's.
func (l *Listener) foreign(fd, family int) bool {
	if family == unix.AF_UNIX || l.netns == 0 {
		return false
	}
	netns, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return err != nil || netns != l.netns
}

// ownNetns is 0 before Linux 5.14.
func ownNetns() uint64 {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	netns, _ := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return netns
}

// pathIn resolves a path as a thread of this process's root and mounts would.
func pathIn(tid int, path string) (string, error) {
	for _, of := range []string{"root", "ns/mnt"} {
		var ours, theirs unix.Stat_t
		if err := unix.Stat("/proc/self/"+of, &ours); err != nil {
			return "", err
		}
		if err := unix.Stat(fmt.Sprintf("/proc/%d/%s", tid, of), &theirs); err != nil {
			return "", err
		}
		if ours.Dev != theirs.Dev || ours.Ino != theirs.Ino {
			return "", unix.EXDEV
		}
	}
	if path = filepath.Clean(path); strings.HasPrefix(path, "/proc/") || strings.HasPrefix(path, "/dev/fd/") {
		return "", unix.EXDEV // of a descriptor of its own, most likely (proc(5))
	}
	if filepath.IsAbs(path) {
		return path, nil
	}
	dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", tid))
	if err == nil && (!filepath.IsAbs(dir) || strings.HasSuffix(dir, " (deleted)")) { // proc(5)
		err = unix.ENOENT
	}
	return filepath.Join(dir, path), err
}

// processOf is the pid of a thread's process: its own number, if it is the first thread,
// which pidfd_open(2) takes for a process.
func processOf(tid int) (int, error) {
	if pidfd, err := unix.PidfdOpen(tid, 0); err == nil {
		unix.Close(pidfd)
		return tid, nil
	}
	text, err := field(fmt.Sprintf("/proc/%d/status", tid), "Tgid:")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// field returns what follows a name at the beginning of a line.
func field(file, name string) (string, error) {
	text, err := os.ReadFile(file)
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte(name)); ok {
			return string(bytes.TrimSpace(value)), nil
		}
	}
	return "", err
}

// linkOf is what proc(5) shows of a descriptor. Two of the same socket show the same, and
// of no other.
func linkOf(process string, fd int) (string, error) {
	return os.Readlink(fmt.Sprintf("/proc/%s/fd/%d", process, fd))
}
