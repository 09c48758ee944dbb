package worker_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/httpserve"
)

// hijacking is a server whose connections are the program's own from the first request on.
func hijacking(own chan<- net.Conn) func(w *worker.Worker, ln net.Listener) error {
	return func(w *worker.Worker, ln net.Listener) error {
		return httpserve.Serve(w, &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			if conn, _, err := rw.(http.Hijacker).Hijack(); err == nil {
				own <- conn
			}
		})}, ln)
	}
}

// States that fill the buffer of a successor that does not read leave each connection with
// its program, as it was.
func TestHandoffIntoAFullBuffer(t *testing.T) {
	t.Parallel()
	const all = 16 // of the largest state: more than fits
	own := make(chan net.Conn, all)
	s := newSiteWithin(t, time.Second, hijacking(own))
	before := s.now
	s.give(before, ipc.RoleFrom)
	<-before.Successor()
	failed := make(chan error, all)
	var conns []net.Conn
	for range all {
		c, in := dial(t, s.addr)
		send(t, c, get)
		conn := <-own
		conns = append(conns, conn)
		go func() { failed <- before.Handoff(conn, bytes.Repeat([]byte("x"), ipc.MaxState)) }()
		defer func() {
			send(t, conn, "still here\n")
			expectLine(t, in, "still here")
			conn.Close()
		}()
	}
	for range all {
		if err := <-failed; !errors.Is(err, worker.ErrNoSuccessor) {
			t.Error(err)
		}
	}
	if n := before.Counters(); n.MovedOut != 0 || n.Open != uint64(len(conns)) {
		t.Errorf("counted %+v", n)
	}
}

// What can't be handed over is the program's, with an error that says why.
func TestHandoffOfWhatCannotMove(t *testing.T) {
	t.Parallel()
	own := make(chan net.Conn, 1)
	s := newSite(t, hijacking(own))
	c, in := dial(t, s.addr)
	send(t, c, get)
	conn := <-own
	defer conn.Close()
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	s.give(s.now, ipc.RoleFrom)
	<-s.now.Successor()
	for _, bad := range []struct {
		conn  net.Conn
		state int
		want  string
	}{
		{conn, ipc.MaxState + 1, "65536 are the most"},
		{tls.Server(conn, &tls.Config{}), 0, "its TLS ends in this process"},
		{pipe, 0, "not accepted on a socket of the master's"},
	} {
		if err := s.now.Handoff(bad.conn, make([]byte, bad.state)); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%v, want %q", err, bad.want)
		}
	}
	send(t, conn, "still here\n")
	expectLine(t, in, "still here")
}

// A predecessor that floods and reads no reply costs the successor no more than the few
// connections that it holds: it serves on, and has closed all of them in the end.
func TestPredecessorThatReadsNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, servers()["net/http"])
	pair := s.give(s.now, ipc.RoleTo)
	const flood = 2000
	var mine []int
	for seq := uint64(1); seq <= flood; seq++ {
		ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		check(t, err)
		packet, err := ipc.Transfer{Seq: seq, Listener: "http"}.Encode()
		check(t, err)
		_, _, err = pair.WriteMsgUnix(packet, unix.UnixRights(ends[0]), nil)
		check(t, err)
		unix.Close(ends[0])
		mine = append(mine, ends[1])
		if len(mine) > 400 { // so that the test itself needs no more
			unix.Close(mine[0])
			mine = mine[1:]
		}
	}
	c, in := dial(t, s.addr)
	send(t, c, get)
	if response(t, in) {
		t.Error("it is the connection's last")
	}
	pair.Close()
	for _, fd := range mine {
		f := os.NewFile(uintptr(fd), "client")
		conn, err := net.FileConn(f)
		check(t, err)
		f.Close()
		check(t, conn.(*net.UnixConn).CloseWrite())
		check(t, conn.SetReadDeadline(time.Now().Add(enough)))
		if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Error(err) // nobody holds the other end, so it has ended
		}
		conn.Close()
	}
	waitFor(t, "only the other client is counted", func() bool { return s.now.Counters().Open == 1 })
}
