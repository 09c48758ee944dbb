package control

import (
	"net"
	"net/http"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// visitor is who has connected, as the kernel knew them then.
type visitor struct {
	uid    uint32
	gid    uint32
	groups []uint32 // supplementary; nil where nobody asks for them
}

type visitorKey struct{}

// door says who may ask.
type door struct {
	owner int // a uid, beside root
	group int // a gid; -1: none
}

// admit returns why a request is refused, or nil.
func (d door) admit(r *http.Request) error {
	who, ok := r.Context().Value(visitorKey{}).(visitor)
	switch {
	case !ok:
		return &Error{http.StatusForbidden, "cannot tell who asks"}
	case who.uid == 0, int(who.uid) == d.owner:
		return nil
	case d.group >= 0 && (int(who.gid) == d.group || slices.Contains(who.groups, uint32(d.group))):
		return nil
	}
	text := "uid " + strconv.Itoa(int(who.uid)) + " may not control this app: be root or uid " + strconv.Itoa(d.owner)
	if d.group >= 0 {
		text += ", or in group " + strconv.Itoa(d.group)
	}
	return &Error{http.StatusForbidden, text}
}

// visitorOf looks at the other end of a connection. Without groups, only the
// user and the first group are told.
func visitorOf(c *net.UnixConn, groups bool) (visitor, error) {
	peer, err := peerOf(c)
	if err != nil {
		return visitor{}, err
	}
	who := visitor{uid: peer.Uid, gid: peer.Gid}
	if !groups {
		return who, nil
	}
	err = control(c, func(fd int) (err error) {
		who.groups, err = peerGroups(fd)
		return err
	})
	return who, err
}

// peerOf returns the credentials of the process that connected, or, for a
// client, of the one that called listen (unix(7), SO_PEERCRED).
func peerOf(c *net.UnixConn) (peer *unix.Ucred, err error) {
	err = control(c, func(fd int) (err error) {
		peer, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		return err
	})
	return peer, err
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
