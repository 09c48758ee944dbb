package workerlink

import (
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/ipc"
)

// joining is a Link and its worker's end of the channel, after the worker's Hello.
func joining(t *testing.T, hands bool) (*Link, *net.UnixConn) {
	t.Helper()
	l, err := Open(Config{Dir: t.TempDir(), Name: "notify", UID: -1, GID: -1, Channel: ipc.ChannelForkd, Closer: new(closing.Closer)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	f := os.NewFile(uintptr(l.theirs), "worker")
	l.theirs = -1
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	heard := make(chan struct{})
	l.Listen(os.Getpid(), func(int) bool { return true }, slog.New(slog.DiscardHandler), func(ipc.Message) { close(heard) })
	line, err := ipc.Encode(ipc.Hello{Version: 1, Handoff: hands})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(line); err != nil {
		t.Fatal(err)
	}
	select {
	case <-heard:
	case <-time.After(enough):
		t.Fatal("the Hello was not heard")
	}
	return l, conn.(*net.UnixConn)
}

// end reads a Handoff and the descriptor that comes with it.
func end(t *testing.T, c *net.UnixConn, role string) int {
	t.Helper()
	buf, oob := make([]byte, 4096), make([]byte, 64)
	if err := c.SetReadDeadline(time.Now().Add(enough)); err != nil {
		t.Fatal(err)
	}
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil || string(buf[:n]) != `{"cmd":"FORKD_HANDOFF","role":"`+role+"\"}\n" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	fds := ipc.Descriptors(oob[:oobn])
	if len(fds) != 1 {
		t.Fatalf("descriptors %v", fds)
	}
	return fds[0]
}

// Both workers get an end of the same pair, and the master keeps none.
func TestJoin(t *testing.T) {
	from, a := joining(t, true)
	to, b := joining(t, true)
	if err := from.Join(to); err != nil {
		t.Fatal(err)
	}
	one, other := end(t, a, ipc.RoleFrom), end(t, b, ipc.RoleTo)
	defer unix.Close(other)
	if _, err := unix.Write(one, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	unix.Close(one)
	buf := make([]byte, 10)
	if n, err := unix.Read(other, buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("read %q, %v", buf[:max(0, n)], err)
	}
	if n, err := unix.Read(other, buf); n != 0 || err != nil { // else a copy is open somewhere
		t.Errorf("then %d, %v", n, err)
	}
}

// Workers of two users, one without handoff, or without a channel, are not joined; one
// that does not read its channel has no room for it.
func TestJoinNot(t *testing.T) {
	from, _ := joining(t, true)
	old, _ := joining(t, false)
	another, _ := joining(t, true)
	another.uid = 65534
	closed, _ := joining(t, true)
	closed.Close()
	for name, to := range map[string]*Link{"of a release without it": old, "of another user": another, "that has ended": closed} {
		if err := from.Join(to); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := to.Join(from); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The worker has closed its end, and the master does not know yet.
	ended, theirs := joining(t, true)
	theirs.Close()
	if err := from.Join(ended); err != nil {
		t.Errorf("that has closed its channel: %v", err)
	}
	deaf, _ := joining(t, true)
	for deaf.Deliver(line(64<<10)) == nil {
		continue
	}
	if err := from.Join(deaf); err == nil {
		t.Error("joined to one that does not read")
	}
	if n, err := unixQueued(from); n != 0 || err != nil {
		t.Errorf("%d bytes for a worker that was joined to nobody, %v", n, err)
	}
}

// unixQueued is how many bytes wait in what the master has sent.
func unixQueued(l *Link) (n int, err error) {
	cerr := l.channel.raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
	if cerr != nil {
		return 0, cerr
	}
	return n, err
}
