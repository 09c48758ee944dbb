package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// connections are the established connections of one server port at one moment,
// by the client's port. The kernel gives a connection its inode when a process
// accepts it: until then it is only queued, and belongs to nobody.
type connections struct {
	accepted map[uint16]bool // by the process that was asked about
	queued   map[uint16]bool
}

// connectionsOf says which connections to port the process pid has accepted. The
// process must be stopped, or the answer is out of date when it comes.
func connectionsOf(pid, port int) (connections, error) {
	inodes, err := socketsOf(pid)
	if err != nil {
		return connections{}, err
	}
	found := connections{accepted: map[uint16]bool{}, queued: map[uint16]bool{}}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		rows, err := dumpTCP(family, uint16(port))
		if err != nil {
			return connections{}, fmt.Errorf("cannot list the connections to port %d: %w", port, err)
		}
		for _, row := range rows {
			switch {
			case row.inode == 0:
				found.queued[row.clientPort] = true
			case inodes[row.inode]:
				found.accepted[row.clientPort] = true
			}
		}
	}
	return found, nil
}

// socketsOf lists the inodes of the sockets that a process has open.
func socketsOf(pid int) (map[uint32]bool, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	inodes := map[uint32]bool{}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		if number, ok := strings.CutPrefix(target, "socket:["); ok {
			inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
			if err == nil {
				inodes[uint32(inode)] = true
			}
		}
	}
	return inodes, nil
}

type tcpRow struct {
	clientPort uint16
	inode      uint32
}

// The request and the row of sock_diag(7), linux/inet_diag.h. Ports are in
// network order.
type (
	diagSocket struct {
		sourcePort, targetPort [2]byte
		source, target         [16]byte
		device                 uint32
		cookie                 [2]uint32
	}
	diagRequest struct {
		header           unix.NlMsghdr
		family, protocol uint8
		extensions, _    uint8
		states           uint32
		socket           diagSocket
	}
	diagRow struct {
		family, state, timer, retransmits uint8
		socket                            diagSocket
		expires, readQueue, writeQueue    uint32
		uid, inode                        uint32
	}
)

// States that a live connection has on the server's side (linux/tcp_states.h):
// ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING.
const liveStates = 1<<1 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11

// dumpTCP asks the kernel for the live connections from a local port. Unlike
// /proc/net/tcp this costs nothing for the thousands that are in TIME_WAIT.
func dumpTCP(family uint8, port uint16) ([]tcpRow, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()

	request := diagRequest{
		header: unix.NlMsghdr{
			Type:  unix.SOCK_DIAG_BY_FAMILY,
			Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP,
		},
		family:   family,
		protocol: unix.IPPROTO_TCP,
		states:   liveStates,
	}
	request.header.Len = uint32(unsafe.Sizeof(request))
	binary.BigEndian.PutUint16(request.socket.sourcePort[:], port)
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&request)), unsafe.Sizeof(request))
	if err := unix.Sendto(fd, bytes, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var rows []tcpRow
	for buffer := make([]byte, 1<<16); ; {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			return nil, err
		}
		more, done, err := parseDiag(buffer[:n])
		rows = append(rows, more...)
		if done || err != nil {
			return rows, err
		}
	}
}

// parseDiag reads one datagram of a dump and says whether it was the last.
func parseDiag(datagram []byte) (rows []tcpRow, done bool, err error) {
	for len(datagram) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(datagram))
		if length < unix.SizeofNlMsghdr || length > len(datagram) {
			break
		}
		body := datagram[unix.SizeofNlMsghdr:length]
		switch binary.NativeEndian.Uint16(datagram[4:]) {
		case unix.NLMSG_DONE:
			return rows, true, nil
		case unix.NLMSG_ERROR:
			return nil, true, unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
		case unix.SOCK_DIAG_BY_FAMILY:
			if len(body) < int(unsafe.Sizeof(diagRow{})) {
				return nil, true, errors.New("the kernel sent a row that is too short")
			}
			row := (*diagRow)(unsafe.Pointer(&body[0]))
			rows = append(rows, tcpRow{binary.BigEndian.Uint16(row.socket.targetPort[:]), row.inode})
		}
		datagram = datagram[min(len(datagram), (length+3)&^3):]
	}
	return rows, false, nil
}
