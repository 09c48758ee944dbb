package worker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

// pair is one end of the sockets of a Handoff: packets, whole and in order, with at most
// one descriptor each.
type pair interface {
	// send returns when the packet is in the other end's queue; an error: it is not.
	// fd -1 is none, and stays the caller's.
	send(packet []byte, fd int) error
	// receive returns a packet, and its descriptor or -1. The error is io.EOF after the
	// last packet of an end that is closed, and after closeRead.
	receive(buf []byte) (n, fd int, err error)
	// closeRead has the other end's send fail from now on. What it has sent can be received.
	closeRead()
	close()
}

// seqpacket is a pair of unix(7).
type seqpacket struct{ conn *net.UnixConn }

// sendTimeout is how long send waits for room.
const sendTimeout = time.Second

// newSeqpacket takes ownership of a descriptor.
func newSeqpacket(fd int) (pair, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err == nil && kind != unix.SOCK_SEQPACKET {
		err = errors.New("it is no SOCK_SEQPACKET")
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot use the socket of a handoff: %w", err)
	}
	conn, err := unixConnOf(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot use the socket of a handoff: %w", err)
	}
	return &seqpacket{conn}, nil
}

// unixConnOf makes a connection of a descriptor, which it takes.
func unixConnOf(fd int) (*net.UnixConn, error) {
	conn, err := connOf(fd)
	if err != nil {
		return nil, err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("it is no unix socket")
	}
	return u, nil
}

// connOf makes a connection of a descriptor, which it takes.
func connOf(fd int) (net.Conn, error) {
	_ = unix.SetNonblock(fd, false) // else it is polled as a file too; FileConn sets it again
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close()
	return net.FileConn(f)
}

func (s *seqpacket) send(packet []byte, fd int) error {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	_, _, err := s.conn.WriteMsgUnix(packet, rights, nil)
	return err
}

func (s *seqpacket) receive(buf []byte) (n, fd int, err error) {
	var oob [64]byte // room for more descriptors than one: those are closed
	n, oobn, _, _, err := s.conn.ReadMsgUnix(buf, oob[:])
	if errors.Is(err, unix.ECONNRESET) { // it closed with packets unread, which is told once: what it sent is there
		n, oobn, _, _, err = s.conn.ReadMsgUnix(buf, oob[:])
	}
	fds := ipc.Descriptors(oob[:max(0, oobn)])
	if len(fds) == 0 {
		return n, -1, err
	}
	for _, more := range fds[1:] {
		unix.Close(more)
	}
	return n, fds[0], err
}

func (s *seqpacket) closeRead() { _ = s.conn.CloseRead() }

func (s *seqpacket) close() { s.conn.Close() }

// makeRoom lets one more packet fit in, where the other end does not read.
func (s *seqpacket) makeRoom() { _ = s.conn.SetWriteBuffer(4 * ipc.MaxTransfer) }
