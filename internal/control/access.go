package control

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peer is the process at the other end of a connection, as the kernel knew it when
// it connected.
type peer struct {
	uid    uint32
	gid    uint32
	groups []uint32 // supplementary; nil: not looked up
}

// access says who may ask.
type access struct {
	everybody bool
	owner     int // a uid, beside root
	group     int // a gid; -1: none
}

// authorize returns why a peer is refused, or nil.
func (a access) authorize(p *peer) error {
	switch {
	case a.everybody:
		return nil
	case p == nil:
		return &Error{http.StatusForbidden, "cannot tell who asks"}
	case p.uid == 0, int(p.uid) == a.owner:
		return nil
	case a.group >= 0 && (int(p.gid) == a.group || slices.Contains(p.groups, uint32(a.group))):
		return nil
	}
	text := fmt.Sprintf("uid %d may not control this app: be root or uid %d", p.uid, a.owner)
	if a.group >= 0 {
		text += fmt.Sprintf(", or in group %d", a.group)
	}
	return &Error{http.StatusForbidden, text}
}

// peerOf returns the other end of a connection. Supplementary groups are looked up
// only if asked for.
func peerOf(c *net.UnixConn, groups bool) (*peer, error) {
	creds, err := credentials(c)
	if err != nil {
		return nil, err
	}
	p := &peer{uid: creds.Uid, gid: creds.Gid}
	if groups {
		err = control(c, func(fd int) (err error) {
			p.groups, err = peerGroups(fd)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// credentials returns those of the process that connected, or, for a client, of the
// one that called listen (unix(7), SO_PEERCRED).
func credentials(c *net.UnixConn) (creds *unix.Ucred, err error) {
	err = control(c, func(fd int) (err error) {
		creds, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		return err
	})
	return creds, err
}

// control calls f with the descriptor of a connection.
func control(c *net.UnixConn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// peerGroups returns the supplementary groups of the process that connected
// (SO_PEERGROUPS, since Linux 4.13; ERANGE tells the size that is needed:
// sk_getsockopt in net/core/sock.c).
func peerGroups(fd int) ([]uint32, error) {
	const most = 65536 // NGROUPS_MAX
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups)) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		n := int(size / 4)
		switch {
		case errno == 0:
			return groups[:n], nil
		case errno != unix.ERANGE || n <= len(groups) || n > most:
			return nil, errno
		}
		groups = make([]uint32, n)
	}
}
