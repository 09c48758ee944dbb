package worker

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

// A drain waits for what this worker has taken from another and does not serve yet; when it
// is over nothing is taken any more.
func TestDrainWaitsForWhatIsTaken(t *testing.T) {
	w, l := withListener(t)
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
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

// deadlines counts the read deadlines of a connection that have passed when they are set.
type deadlines struct {
	net.Conn
	passed atomic.Int32
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) {
		d.passed.Add(1)
	}
	return d.Conn.SetReadDeadline(t)
}

// A drain that lists an idle connection and comes late does not end the one that has its
// socket since then, which would close it before its client's eyes.
func TestExpiredAfterItIsPutBack(t *testing.T) {
	_, l := withListener(t)
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	raw := &deadlines{Conn: there}
	c, _ := wrap(raw)
	c.raw = raw
	l.add(c)
	c.phase.Store(int32(Idle))
	c.expire(moving)
	c.going.Store(true)
	c.putBack(nil)
	c.expire(moving)
	if n := raw.passed.Load(); n != 1 {
		t.Errorf("expired %d times", n)
	}
	for end := time.Now().Add(time.Minute); l.arrived() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come back")
		}
	}
}
