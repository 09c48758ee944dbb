package worker_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/fasthttpserve"
	"github.com/forkd/forkd/worker/httpserve"
)

// enough bounds every wait. Only what hangs reaches it.
const enough = 5 * time.Minute

// site is the socket of a slot, and the workers that it has had, all in this process.
type site struct {
	t     *testing.T
	ln    *net.TCPListener
	addr  string
	serve func(w *worker.Worker, ln net.Listener) error
	now   *member

	replyWithin time.Duration // a successor has so long for each reply
}

// member is a worker with its master's end of the channel.
type member struct {
	*worker.Worker
	channel *net.UnixConn
	page    int
	served  chan error
}

// newSite is a site whose successors are as slow as the machine.
func newSite(t *testing.T, serve func(w *worker.Worker, ln net.Listener) error) *site {
	t.Helper()
	return newSiteWithin(t, enough, serve)
}

func newSiteWithin(t *testing.T, replyWithin time.Duration, serve func(w *worker.Worker, ln net.Listener) error) *site {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	s := &site{t: t, ln: ln.(*net.TCPListener), addr: ln.Addr().String(), serve: serve, replyWithin: replyWithin}
	t.Cleanup(func() { ln.Close() })
	s.now = s.start()
	t.Cleanup(func() { s.drain(s.now, ipc.ReasonStop); s.ended(s.now) })
	return s
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// descriptor is a copy of a socket's. That of its File would have the socket block, while
// a worker accepts from it.
func descriptor(t *testing.T, socket syscall.Conn) (fd int) {
	t.Helper()
	raw, err := socket.SyscallConn()
	check(t, err)
	cerr := raw.Control(func(of uintptr) { fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	check(t, errors.Join(cerr, err))
	return fd
}

// ends makes the master's ends of a worker, and what is passed to it.
func (s *site) ends() (m *member, passed ipc.Passed) {
	s.t.Helper()
	socket := descriptor(s.t, s.ln)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(s.t, err)
	page, err := ipc.NewPage()
	check(s.t, err)
	theirs, err := unix.FcntlInt(uintptr(page), unix.F_DUPFD_CLOEXEC, 0)
	check(s.t, err)
	own := os.NewFile(uintptr(pair[0]), "master")
	conn, err := net.FileConn(own)
	own.Close()
	check(s.t, err)
	m = &member{channel: conn.(*net.UnixConn), page: page, served: make(chan error, 1)}
	return m, ipc.Passed{Sockets: []ipc.Socket{{FD: socket, Name: "http"}}, Channel: pair[1], Page: theirs}
}

func (s *site) start() *member {
	s.t.Helper()
	m, passed := s.ends()
	m.Worker = worker.StartPassed(passed, s.replyWithin)
	ln, err := m.Listen("http", "")
	check(s.t, err)
	go func() { m.served <- s.serve(m.Worker, ln) }()
	s.awaitReady(m)
	return m
}

func (s *site) awaitReady(m *member) {
	s.t.Helper()
	in := ipc.NewReader(m.channel)
	check(s.t, m.channel.SetReadDeadline(time.Now().Add(enough)))
	for {
		msg, err := in.Read()
		check(s.t, err)
		if _, ready := msg.(ipc.Ready); ready {
			return
		}
	}
}

// join has one worker hand its connections to another.
func (s *site) join(from, to *member) {
	s.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	check(s.t, err)
	for i, end := range []struct {
		m    *member
		role string
	}{{from, ipc.RoleFrom}, {to, ipc.RoleTo}} {
		line, err := ipc.Encode(ipc.Handoff{Role: end.role})
		check(s.t, err)
		_, _, err = end.m.channel.WriteMsgUnix(line, unix.UnixRights(pair[i]), nil)
		check(s.t, err)
		unix.Close(pair[i])
	}
}

func (s *site) drain(m *member, reason string) {
	s.t.Helper()
	line, err := ipc.Encode(ipc.Drain{Reason: reason, Deadline: time.Now().Add(enough), Idle: time.Millisecond})
	check(s.t, err)
	_, err = m.channel.Write(line)
	check(s.t, err)
}

func (s *site) ended(m *member) {
	s.t.Helper()
	select {
	case err := <-m.served:
		check(s.t, err)
	case <-time.After(enough):
		s.t.Fatalf("a draining worker has not ended: %+v", m.Counters())
	}
	m.channel.Close()
	unix.Close(m.page)
}

// roll replaces the worker.
func (s *site) roll() (before *member) {
	s.t.Helper()
	before = s.now
	s.now = s.start()
	s.join(before, s.now)
	s.drain(before, ipc.ReasonRoll)
	return before
}

// app answers with the length of what it got.
func app(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err == nil {
		fmt.Fprint(w, n)
	}
}

func servers() map[string]func(w *worker.Worker, ln net.Listener) error {
	return map[string]func(w *worker.Worker, ln net.Listener) error{
		"net/http": func(w *worker.Worker, ln net.Listener) error {
			return httpserve.Serve(w, &http.Server{Handler: http.HandlerFunc(app), IdleTimeout: enough}, ln)
		},
		"fasthttp": func(w *worker.Worker, ln net.Listener) error {
			return fasthttpserve.Serve(w, &fasthttp.Server{
				Handler:     func(ctx *fasthttp.RequestCtx) { fmt.Fprint(ctx, len(ctx.PostBody())) },
				IdleTimeout: enough,
			}, ln)
		},
	}
}

// Clients that never retry keep their connections through rolls, whatever they send.
func TestConnectionsMove(t *testing.T) {
	for name, serve := range servers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, serve)
			var requests atomic.Int64
			stop := make(chan struct{})
			var clients sync.WaitGroup
			defer clients.Wait()
			defer sync.OnceFunc(func() { close(stop) })()
			const all, rolls = 32, 6
			for i := range all {
				c, in := dial(t, s.addr)
				clients.Go(func() {
					for n := 0; ; n++ {
						select {
						case <-stop:
							return
						default:
						}
						if err := ask(c, in, i%4, n%3000); err != nil {
							t.Errorf("request %d of its connection: %v", n, err)
							return
						}
						requests.Add(1)
					}
				})
			}
			var moved uint64
			for range rolls {
				before, seen := s.now, requests.Load()
				for end := time.Now().Add(enough); requests.Load() < seen+200 && time.Now().Before(end) && !t.Failed(); {
					time.Sleep(time.Millisecond) // until all have been served by this worker
				}
				s.roll()
				select {
				case err := <-before.served:
					check(t, err)
				case <-time.After(enough):
					t.Fatalf("the predecessor has not ended: %+v", before.Counters())
				}
				c := before.Counters()
				if c.Open != 0 {
					t.Errorf("the predecessor has ended with %+v", c)
				}
				moved += c.MovedOut
			}
			t.Logf("%d requests, %d moved", requests.Load(), moved)
			if moved != all*rolls {
				t.Errorf("%d have moved, want %d in each of %d rolls", moved, all, rolls)
			}
		})
	}
}

// ask makes a request: without a body, with a length, in chunks, or without keeping to one.
// net/http's client would open another connection whenever it is slow itself.
func ask(c net.Conn, in *bufio.Reader, kind, size int) error {
	var body io.Reader
	method := http.MethodPost
	switch kind {
	case 0:
		method, size = http.MethodGet, 0
	case 1:
		body = bytes.NewReader(bytes.Repeat([]byte("\r\n"), size/2))
		size = size / 2 * 2
	case 2:
		body = io.MultiReader(strings.NewReader(strings.Repeat("x", size))) // its length is not known
	case 3:
		body = strings.NewReader(strings.Repeat("y", size))
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://x/", body)
	if err != nil {
		return err
	}
	if err := errors.Join(c.SetDeadline(time.Now().Add(enough)), req.Write(c)); err != nil {
		return err
	}
	resp, err := http.ReadResponse(in, req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case string(text) != strconv.Itoa(size):
		return fmt.Errorf("kind %d of %d bytes: %q", kind, size, text)
	case resp.Close:
		return errors.New("it is the connection's last")
	}
	return nil
}

// dial opens a connection of which each line is read by hand.
func dial(t *testing.T, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	check(t, err)
	t.Cleanup(func() { c.Close() })
	check(t, c.SetDeadline(time.Now().Add(enough)))
	return c, bufio.NewReader(c)
}

// response reads one, and reports whether it is the connection's last.
func response(t *testing.T, in *bufio.Reader) (last bool) {
	t.Helper()
	resp, err := http.ReadResponse(in, nil)
	check(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	check(t, err)
	return resp.Close
}

const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(c, text)
	check(t, err)
}

// waitFor waits until something is so.
func waitFor(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(enough); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not after %v", what, enough)
		}
	}
}

// What a client has sent of a request when its connection could move is served once,
// by whoever has it.
func TestHalfARequestStays(t *testing.T) {
	for name, serve := range servers() {
		for what, parts := range map[string][2]string{
			"a head":             {get[:20], get[20:]},
			"the end of a head":  {get[:len(get)-1], get[len(get)-1:]},
			"pipelined":          {get + get[:10], get[10:]},
			"pipelined, 3 bytes": {get + get[:3], get[3:]},
			"a body":             {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab", "cd"},
			"a body of lines":    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n\r\n\r\n", "\r\n\r\n"},
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, serve)
				c, in := dial(t, s.addr)
				send(t, c, get)
				response(t, in)
				send(t, c, parts[0])
				before := s.now
				requests := uint64(2)
				if strings.HasPrefix(what, "pipelined") {
					response(t, in) // to the first of the two
					requests++
				} else {
					waitRead(t, c)
				}
				s.roll()
				<-before.Draining()
				send(t, c, parts[1])
				response(t, in)
				send(t, c, get) // on the same connection, if it has not been told otherwise
				response(t, in)
				s.ended(before)
				waitFor(t, "the count", func() bool {
					a, b := before.Counters(), s.now.Counters()
					return a.Open == 0 && a.Requests+b.Requests == requests+1
				})
			})
		}
	}
}

// waitRead waits until the server has read what the client has sent.
func waitRead(t *testing.T, c net.Conn) {
	t.Helper()
	local, remote := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr)
	waitFor(t, "the server's read", func() bool {
		table, err := os.ReadFile("/proc/net/tcp")
		check(t, err)
		// The server's side: local is remote here, and its receive queue is empty.
		want := fmt.Sprintf(":%04X 0100007F:%04X 01 ", remote.Port, local.Port)
		for line := range strings.Lines(string(table)) {
			if strings.Contains(line, want) {
				return strings.Contains(line, want+"00000000:00000000")
			}
		}
		return false
	})
}

// A successor that is told to drain takes nothing: the connection stays, and is served.
func TestRefusedConnectionsStay(t *testing.T) {
	for name, serve := range servers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, serve)
			c, in := dial(t, s.addr)
			send(t, c, get)
			response(t, in)
			before := s.now
			s.now = s.start()
			other := s.start()
			s.drain(other, ipc.ReasonStop)
			<-other.Draining()
			s.join(before, other)
			s.drain(before, ipc.ReasonRoll)
			<-before.Draining()
			for last := false; !last; { // the first may have been under way
				send(t, c, get)
				last = response(t, in)
			}
			s.ended(before)
			s.ended(other)
			if n := before.Counters().MovedOut + other.Counters().MovedIn; n != 0 {
				t.Errorf("%d have moved", n)
			}
		})
	}
}

func expectLine(t *testing.T, in *bufio.Reader, want string) {
	t.Helper()
	if line, err := in.ReadString('\n'); err != nil || line != want+"\n" {
		t.Fatalf("read %q, %v; want %q", line, err, want)
	}
}
