package servetest

import (
	"errors"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/internal/serve"
)

// Master is the master of one worker. It starts and kills nothing.
type Master struct {
	t    testing.TB
	conn net.Conn
	in   *ipc.Reader

	// The worker's descriptors, for the caller that starts it.
	Channel, Page *os.File
	page          int

	MaxConnections int // that the worker may have; 0: any number
}

//nolint:gochecknoglobals // what it sets is the process's
var waitLonger = sync.OnceFunc(func() { serve.RequestTimeout, serve.LingerTimeout = Timeout, Timeout })

// NewMaster makes a master without a worker.
func NewMaster(t testing.TB) *Master {
	t.Helper()
	waitLonger() // a client is as slow as the machine
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	own := os.NewFile(uintptr(pair[0]), "master")
	defer own.Close()
	conn, err := net.FileConn(own)
	check(t, err)
	page, err := ipc.NewPage()
	check(t, err)
	theirs, err := unix.FcntlInt(uintptr(page), unix.F_DUPFD_CLOEXEC, 0)
	check(t, err)
	m := &Master{
		t: t, conn: conn, in: ipc.NewReader(conn), page: page,
		Channel: os.NewFile(uintptr(pair[1]), "channel"),
		Page:    os.NewFile(uintptr(theirs), "page"),
	}
	t.Cleanup(func() {
		m.Close()
		m.Channel.Close()
		m.Page.Close()
		unix.Close(page)
	})
	return m
}

// environment is held while a worker in this process reads it.
var environment sync.Mutex //nolint:gochecknoglobals // there is one environment

// Worker makes this process the master's worker. One process may be several, for
// tests that run side by side: they share the signals, and nothing else.
func (m *Master) Worker() *worker.Worker {
	m.t.Helper()
	environment.Lock()
	defer environment.Unlock()
	for key, f := range map[string]*os.File{ipc.EnvChannelFD: m.Channel, ipc.EnvPageFD: m.Page} {
		// The worker closes what it is given, and m.Channel must not close the
		// number again.
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		check(m.t, err)
		f.Close()
		check(m.t, os.Setenv(key, strconv.Itoa(fd)))
	}
	if m.MaxConnections > 0 {
		check(m.t, os.Setenv(ipc.EnvMaxConnections, strconv.Itoa(m.MaxConnections)))
	}
	w := worker.New()
	m.Expect(ipc.Hello{Version: 1, Handoff: true})
	return w
}

// Read is the worker's next message.
func (m *Master) Read() (ipc.Message, error) {
	if err := m.conn.SetReadDeadline(time.Now().Add(Timeout)); err != nil {
		return nil, err
	}
	return m.in.Read()
}

// Expect fails the test unless the worker's next message is want.
func (m *Master) Expect(want ipc.Message) {
	m.t.Helper()
	if got, err := m.Read(); err != nil || got != want {
		m.t.Fatalf("the worker said %#v, %v; want %#v", got, err, want)
	}
}

// ExpectNothing fails the test if the worker has said anything.
func (m *Master) ExpectNothing() {
	m.t.Helper()
	check(m.t, m.conn.SetReadDeadline(time.Unix(1, 0)))
	rc, err := m.conn.(*net.UnixConn).SyscallConn()
	check(m.t, err)
	err = rc.Control(func(fd uintptr) {
		if n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT); !errors.Is(err, unix.EAGAIN) {
			m.t.Errorf("the worker said something: %d bytes, %v", n, err)
		}
	})
	check(m.t, err)
}

// Send sends a message.
func (m *Master) Send(msg ipc.Message) {
	m.t.Helper()
	line, err := ipc.Encode(msg)
	check(m.t, err)
	m.Write(line)
}

// Write sends bytes as they are.
func (m *Master) Write(b []byte) {
	m.t.Helper()
	_, err := m.conn.Write(b)
	check(m.t, err)
}

// Drain asks the worker to drain within d.
func (m *Master) Drain(reason string, d, idle time.Duration) {
	m.t.Helper()
	m.Send(ipc.Drain{Reason: reason, Deadline: time.Now().Add(d), Idle: idle})
}

// Close closes the master's end of the channel.
func (m *Master) Close() { m.conn.Close() }

// SetLimit sets how many connections the worker may have from now on.
func (m *Master) SetLimit(connections int64) {
	m.t.Helper()
	check(m.t, ipc.SetLimit(m.page, connections))
}

// Counters reads the page as a master does.
func (m *Master) Counters() ipc.Counters {
	m.t.Helper()
	c, err := ipc.ReadPage(m.page)
	check(m.t, err)
	return c
}

// WaitFor fails the test unless the counters come to want: a connection's end
// reaches the page a moment after it reaches the client.
func (m *Master) WaitFor(want ipc.Counters) {
	m.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(Timeout); m.Counters() != want; <-tick.C {
		if time.Now().After(end) {
			m.t.Fatalf("the page has %+v, want %+v", m.Counters(), want)
		}
	}
}
