package closing_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/closing/closingtest"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pair is a Conn, as a kernel without SO_PASSRIGHTS leaves it, and what sends to it.
func pair(t *testing.T, kind int) (*closing.Conn, *closing.Closer, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	file := os.NewFile(uintptr(fds[0]), "pair")
	conn, err := net.FileConn(file)
	check(t, err)
	file.Close()
	closer := new(closing.Closer)
	return closing.NewConn(conn.(*net.UnixConn), closer), closer, fds[1]
}

// closed returns when the close(2) has.
func closed(t *testing.T, closer *closing.Closer, other int) {
	t.Helper()
	defer unix.Close(other)
	closingtest.Returns(t, "close(2)", func() {
		for { // until the other end is gone, which is when its close(2) begins
			if err := unix.Send(other, []byte("x"), unix.MSG_NOSIGNAL); err != nil && !errors.Is(err, unix.EINTR) {
				break
			}
		}
		closer.Run(func() {})
	})
}

// Sockets that linger are in its queue, one of them inside another socket's queue,
// while somebody reads and somebody writes.
func TestCloseIsNotHeld(t *testing.T) {
	silent := closingtest.Silent(t)
	conn, closer, other := pair(t, unix.SOCK_STREAM)
	ended := make(chan error, 2)
	go func() {
		_, err := conn.Read(make([]byte, 1)) // parked
		ended <- err
	}()
	go func() {
		for {
			if _, err := conn.Write(make([]byte, 1<<16)); err != nil {
				ended <- err
				return
			}
		}
	}()
	check(t, conn.Close())
	for range cap(ended) {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ended with %v", err)
		}
	}
	closed(t, closer, other)

	conn, closer, other = pair(t, unix.SOCK_STREAM)
	check(t, closingtest.Send(other, 3, "x", silent))
	inner, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	check(t, closingtest.Send(inner[1], 1, "x", silent))
	check(t, unix.Sendmsg(other, []byte("x"), unix.UnixRights(inner[:]...), nil, 0))
	unix.Close(inner[0])
	unix.Close(inner[1])
	closingtest.Returns(t, "Close", func() { check(t, conn.Close()) })
	<-conn.Closed()
	if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the second Close: %v", err)
	}
	closed(t, closer, other)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	for _, set := range []func(time.Time) error{conn.SetDeadline, conn.SetReadDeadline, conn.SetWriteDeadline} {
		if err := set(time.Time{}); !errors.Is(err, net.ErrClosed) { // else a read could park once more, and hold up the close(2)
			t.Errorf("a deadline after Close: %v", err)
		}
	}
}

func TestReadIsNotHeld(t *testing.T) {
	silent := closingtest.Silent(t)
	conn, closer, other := pair(t, unix.SOCK_STREAM)
	check(t, closingtest.Send(other, 3, "one", silent))
	closingtest.Returns(t, "Read", func() {
		text := make([]byte, 10)
		if n, err := conn.Read(text); err != nil || string(text[:n]) != "one" {
			t.Errorf("read %q, %v", text[:n], err)
		}
	})
	check(t, unix.Shutdown(other, unix.SHUT_WR))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v at the end", n, err)
	}
	check(t, conn.Close())
	closed(t, closer, other)

	conn, closer, other = pair(t, unix.SOCK_DGRAM)
	check(t, closingtest.Send(other, 3, "one", silent))
	check(t, unix.Send(other, nil, 0))
	closingtest.Returns(t, "Receive", func() {
		text := make([]byte, 10)
		n, sender, _, err := conn.Receive(text)
		if err != nil || string(text[:n]) != "one" || sender != nil {
			t.Errorf("received %q from %v, %v", text[:n], sender, err)
		}
		if n, _, _, err := conn.Receive(text); n != 0 || err != nil {
			t.Errorf("received %d, %v of an empty datagram", n, err)
		}
	})
	check(t, conn.Close())
	closed(t, closer, other)
}

// Where the kernel can, nothing is queued to begin with.
func TestRefuseRights(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	_, err = unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PASSRIGHTS)
	canRefuse := err == nil
	closing.RefuseRights(fds[0])
	err = unix.Sendmsg(fds[1], []byte("x"), unix.UnixRights(0), nil, 0)
	if canRefuse != errors.Is(err, unix.EPERM) {
		t.Errorf("the kernel can refuse: %t; sent: %v", canRefuse, err)
	}
	check(t, unix.Send(fds[1], []byte("x"), 0))
}
