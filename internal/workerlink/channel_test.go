package workerlink

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/ipc"
)

// enough bounds every wait in these tests. It is reached only by what hangs.
const enough = 60 * time.Second

// pair is a channel and the worker's end of it.
func pair(t *testing.T) (*channel, net.Conn) {
	t.Helper()
	c, fd, err := newChannel(new(closing.Closer))
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "worker")
	theirs, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.close()
		theirs.Close()
		writerEnds(t, c)
	})
	if err := theirs.SetDeadline(time.Now().Add(enough)); err != nil {
		t.Fatal(err)
	}
	return c, theirs
}

// writerEnds waits until a channel has no writer.
func writerEnds(t *testing.T, c *channel) {
	t.Helper()
	for deadline := time.Now().Add(enough); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		busy := c.busy
		c.mu.Unlock()
		switch {
		case !busy:
			return
		case time.Now().After(deadline):
			t.Fatal("the writer has outlived its channel")
		}
	}
}

// line is an application's line of n bytes.
func line(n int) []byte { return []byte(`"` + strings.Repeat("x", n-3) + "\"\n") }

func expect(t *testing.T, in *ipc.Reader, want ipc.Message) {
	t.Helper()
	got, err := in.Read()
	if err != nil {
		t.Fatalf("%v, want %.60q", err, want)
	}
	app, ok := got.(ipc.App)
	if wanted, both := want.(ipc.App); ok && both {
		if !bytes.Equal(app, wanted) {
			t.Fatalf("read %.60q (%d bytes), want %.60q (%d bytes)", app, len(app), wanted, len(wanted))
		}
	} else if ok || got != want {
		t.Fatalf("read %.200v, want %.200v", got, want)
	}
}

// What the kernel has no room for follows whole; forkd's own goes first.
func TestChannelSendsWhole(t *testing.T) {
	c, theirs := pair(t)
	long := ipc.App(bytes.TrimSpace(line(ipc.MaxLine + 1)))
	drain := ipc.Drain{Reason: ipc.ReasonRoll, Deadline: time.Date(2026, 11, 21, 6, 30, 0, 0, time.UTC), Idle: time.Second}
	if err := c.deliver([]byte("1\n")); err != nil {
		t.Fatal(err)
	}
	if err := c.deliver(append(slices.Clone(long), '\n')); err != nil {
		t.Fatal(err)
	}
	if err := c.deliver([]byte("2\n")); err != nil {
		t.Fatal(err)
	}
	if err := c.send(drain); err != nil {
		t.Fatal(err)
	}
	in := ipc.NewReader(theirs)
	for _, want := range []ipc.Message{ipc.App("1"), long, drain, ipc.App("2")} {
		expect(t, in, want)
	}
	// Nothing waits any more, and it goes on.
	if err := c.deliver([]byte("3\n")); err != nil {
		t.Fatal(err)
	}
	expect(t, in, ipc.App("3"))
}

// Where the socket has room a message is in it when send returns: the stop signal
// that follows finds it there.
func TestChannelSendsAtOnce(t *testing.T) {
	c, theirs := pair(t)
	if err := c.send(ipc.Drain{Reason: ipc.ReasonStop, Deadline: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := theirs.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	raw, err := theirs.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		if n, _, err := unix.Recvfrom(int(fd), make([]byte, 100), unix.MSG_DONTWAIT); n <= 0 {
			t.Errorf("nothing there: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A worker that does not read costs a bounded number of bytes, holds nobody up,
// and hears of its drain once it reads.
func TestChannelOfAWorkerThatDoesNotRead(t *testing.T) {
	c, theirs := pair(t)
	shared := line(64 << 10)
	accepted := 0
	for accepted < 1000 {
		err := c.deliver(shared)
		if errors.Is(err, errFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		accepted++
	}
	// The kernel has room for a little more.
	if most := (maxWaiting + 1<<20) / len(shared); accepted < maxWaiting/len(shared) || accepted > most {
		t.Errorf("%d lines of 64 KiB were taken, want up to %d", accepted, most)
	}
	if err := c.deliver([]byte("1\n")); err != nil && !errors.Is(err, errFull) {
		t.Errorf("refused with %v", err)
	}
	drain := ipc.Drain{Reason: ipc.ReasonStop, Deadline: time.Date(2026, 11, 21, 6, 30, 0, 0, time.UTC)}
	if err := c.send(drain); err != nil {
		t.Fatalf("forkd's own is refused: %v", err)
	}
	in := ipc.NewReader(theirs)
	apps, drainedAfter := 0, -1
	for apps < accepted {
		m, err := in.Read()
		if err != nil {
			t.Fatalf("after %d of %d: %v", apps, accepted, err)
		}
		switch m.(type) {
		case ipc.App:
			apps++
		case ipc.Drain:
			drainedAfter = apps
		}
	}
	if drainedAfter < 0 || drainedAfter > accepted/2 {
		t.Errorf("the drain came after %d of %d", drainedAfter, accepted)
	}
}

func TestChannelCloses(t *testing.T) {
	c, theirs := pair(t)
	received := make(chan error, 1)
	go func() { received <- c.receive(func(ipc.Message) {}) }()
	for c.deliver(line(1<<20)) == nil {
		continue // until it is full
	}
	c.close()
	c.close()
	if err := <-received; err != nil {
		t.Errorf("receive ended with %v", err)
	}
	for _, err := range []error{c.deliver([]byte("1\n")), c.send(ipc.Shed{Count: 1})} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("after close: %v", err)
		}
	}
	theirs.Close()

	// The worker's end closed while something waits for it.
	c, theirs = pair(t)
	for c.deliver(line(1<<20)) == nil {
		continue
	}
	theirs.Close()
	writerEnds(t, c)
	if err := c.send(ipc.Shed{Count: 1}); !errors.Is(err, unix.EPIPE) {
		t.Errorf("to a worker that has closed: %v", err)
	}
}

// Many send at once, and the worker reads when it likes: every line arrives whole.
func TestChannelOfManySenders(t *testing.T) {
	c, theirs := pair(t)
	const senders, each = 8, 200
	var all sync.WaitGroup
	for s := range senders {
		all.Go(func() {
			for i := range each {
				text := fmt.Appendf(nil, "[%d,%d,%q]\n", s, i, strings.Repeat("y", 100*i))
				for errors.Is(c.deliver(text), errFull) {
					_ = c.send(ipc.Shed{})
					time.Sleep(time.Millisecond) // until it is less full
				}
			}
		})
	}
	defer all.Wait()
	defer c.close() // else the senders go on where this fails
	next := [senders]int{}
	in := ipc.NewReader(theirs)
	for apps := 0; apps < senders*each; {
		m, err := in.Read()
		if err != nil {
			t.Fatal(err)
		}
		app, ok := m.(ipc.App)
		if !ok {
			continue
		}
		apps++
		var s, i int
		if _, err := fmt.Sscanf(string(app), "[%d,%d,", &s, &i); err != nil || i != next[s] {
			t.Fatalf("got %.40q, want number %d", app, next[s])
		}
		next[s]++
	}
}

// flood writes the same bytes until the other end is closed.
func flood(theirs net.Conn, text []byte) {
	for {
		if _, err := theirs.Write(text); err != nil {
			return
		}
	}
}

// A worker that floods is read at its pace, and no further than that.
func TestChannelPacesAFlood(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]struct {
		line      []byte
		perSecond int
	}{
		"short": {bytes.Repeat([]byte("1\n"), 1000), messagesPerSecond},
		"own":   {bytes.Repeat([]byte("{\"cmd\":\"FORKD_PULSE\"}\n"), 1000), messagesPerSecond},
		"long":  {line(1 << 20), bytesPerSecond >> 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, theirs := pair(t)
			var flooding sync.WaitGroup
			flooding.Go(func() { flood(theirs, f.line) })
			began := time.Now()
			heard := 0
			err := c.receive(func(ipc.Message) { // however long that takes here
				heard++
				if heard >= 2*f.perSecond {
					c.close()
				}
			})
			took := time.Since(began)
			flooding.Wait()
			most := int(float64(f.perSecond)*(1+took.Seconds())) + 2
			if err != nil || heard > most {
				t.Errorf("heard %d in %v, %v; want at most %d", heard, took, err, most)
			}
		})
	}
}

// What can't be understood closes this worker's channel, with a reason.
func TestChannelRefusesNonsense(t *testing.T) {
	for name, f := range map[string]struct {
		text []byte
		want string
	}{
		"not JSON": {[]byte("1\nhello?\n"), "not JSON"},
		"too long": {append([]byte("1\n"), line(ipc.MaxLine+3)...), "over 1048576 bytes"},
	} {
		c, theirs := pair(t)
		go func() { _, _ = theirs.Write(f.text) }()
		heard := 0
		err := c.receive(func(ipc.Message) { heard++ })
		if err == nil || !strings.Contains(err.Error(), f.want) || heard != 1 {
			t.Errorf("%s: heard %d, %v", name, heard, err)
		}
	}
}
