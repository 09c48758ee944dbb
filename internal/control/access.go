package control

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peer is the process at the other end of a connection: the one that connected, or
// for a client the one that called listen(2) (unix(7), SO_PEERCRED).
type peer struct {
	unix.Ucred

	groups []uint32 // supplementary
	caller string   // see Caller; "" until it has asked for a change
}

type access struct {
	everybody bool
	owner     int // a uid, beside root
	group     int // a gid; -1: none
}

func (a access) authorize(p *peer) error {
	switch {
	case a.everybody:
		return nil
	case p == nil:
		return &Error{http.StatusForbidden, "cannot tell who asks"}
	case p.Uid == 0, int(p.Uid) == a.owner:
		return nil
	case a.group >= 0 && (int(p.Gid) == a.group || slices.Contains(p.groups, uint32(a.group))):
		return nil
	}
	text := fmt.Sprintf("uid %d may not control this app: be root or uid %d", p.Uid, a.owner)
	if a.group >= 0 {
		text += fmt.Sprintf(", or in group %d", a.group)
	}
	return &Error{http.StatusForbidden, text}
}

func peerOf(c *net.UnixConn) (*peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var p peer
	closed := raw.Control(func(fd uintptr) {
		var creds *unix.Ucred
		if creds, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			p.Ucred = *creds
			p.groups, err = peerGroups(fd)
		}
	})
	return &p, cmp.Or(closed, err)
}

// peerGroups asks for SO_PEERGROUPS (Linux 4.13). ERANGE tells the size that is needed
// (sk_getsockopt in net/core/sock.c), at most NGROUPS_MAX numbers.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups)) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		n := int(size / 4)
		if errno == 0 {
			return groups[:n], nil
		}
		if errno != unix.ERANGE || n <= len(groups) {
			return nil, errno
		}
		groups = make([]uint32, n)
	}
}
