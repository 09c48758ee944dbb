package worker

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// An end that is closed with something unread resets the other (unix(7)). recvmsg(2)
// returns -1 then, which is no length.
func TestReset(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(pair[1]), "channel")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	unix.Close(pair[0])
	if n, err := (&rights{conn: conn.(*net.UnixConn)}).Read(make([]byte, 10)); n != 0 || !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a channel: %d, %v", n, err)
	}

	pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSeqpacket(pair[1])
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.send([]byte("unread"), -1); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(pair[0], []byte("a reply")); err != nil {
		t.Fatal(err)
	}
	unix.Close(pair[0])
	buf := make([]byte, 10)
	if n, fd, err := s.receive(buf); err != nil || fd != -1 || string(buf[:n]) != "a reply" {
		t.Errorf("what was sent before: %q, %d, %v", buf[:max(0, n)], fd, err)
	}
	if _, _, err := s.receive(buf); !errors.Is(err, io.EOF) {
		t.Errorf("then %v", err)
	}
}
