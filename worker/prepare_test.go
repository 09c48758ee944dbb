package worker

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

// A drain waits for what this worker has taken from another and does not serve yet; when it
// is over nothing is taken any more.
func TestDrainWaitsForWhatIsTaken(t *testing.T) {
	sockets, _ := passedSockets(t, "http")
	w := alone(sockets...)
	ln, err := w.Listen("http", "")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	l := ln.(*listener)
	raw, err := l.Listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	w.OnHandoff(func(conn net.Conn, _ []byte) { conn.Close() })
	prepare := func() (serve, drop func()) {
		fd := -1
		rc, err := raw.(*net.TCPConn).SyscallConn()
		if err == nil {
			err = rc.Control(func(of uintptr) { fd, _ = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
		}
		if err != nil || fd < 0 {
			t.Fatal(fd, err)
		}
		return w.prepare(ipc.Transfer{Seq: 1, Listener: "http", Own: true}, fd)
	}
	serve, _ := prepare()
	if serve == nil || l.endIfEmpty() {
		t.Fatal("the drain is over before the connection is served")
	}
	serve()
	for end := time.Now().Add(time.Minute); !l.endIfEmpty(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the drain is not over when it has ended")
		}
	}
	if serve, _ := prepare(); serve != nil {
		t.Error("taken after the drain")
	}
	if c := w.Counters(); c.Open != 0 || c.MovedIn != 1 {
		t.Errorf("counted %+v", c)
	}

	l.over = false
	_, drop := prepare()
	drop()
	drop()
	if c := w.Counters(); c.Open != 0 || c.MovedIn != 1 || !l.endIfEmpty() {
		t.Errorf("given back: %+v", c)
	}
}
