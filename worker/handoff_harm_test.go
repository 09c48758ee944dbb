package worker_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/fasthttpserve"
	"github.com/forkd/forkd/worker/httpserve"
)

// give passes a worker one end of a pair, and returns the other.
func (s *site) give(m *member, role string) *net.UnixConn {
	s.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	check(s.t, err)
	line, err := ipc.Encode(ipc.Handoff{Role: role})
	check(s.t, err)
	_, _, err = m.channel.WriteMsgUnix(line, unix.UnixRights(pair[0]), nil)
	check(s.t, err)
	unix.Close(pair[0])
	f := os.NewFile(uintptr(pair[1]), "pair")
	defer f.Close()
	conn, err := net.FileConn(f)
	check(s.t, err)
	s.t.Cleanup(func() { conn.Close() })
	check(s.t, conn.SetDeadline(time.Now().Add(enough)))
	return conn.(*net.UnixConn)
}

// Whatever a successor does, the connection that it was sent is served by the predecessor.
func TestSuccessorsThatHarm(t *testing.T) {
	receive := func(t *testing.T, c *net.UnixConn) (oob []byte) {
		t.Helper()
		oob = make([]byte, 64)
		_, n, _, _, err := c.ReadMsgUnix(make([]byte, ipc.MaxTransfer), oob) // and the descriptor leaks until the test ends
		check(t, err)
		return oob[:n]
	}
	receiveAndBlock := func(t *testing.T, c *net.UnixConn) { // as in the moment before it is a connection
		t.Helper()
		for _, fd := range ipc.Descriptors(receive(t, c)) {
			check(t, unix.SetNonblock(fd, false))
		}
	}
	for name, harm := range map[string]func(t *testing.T, c *net.UnixConn){
		"never answers":               func(*testing.T, *net.UnixConn) {}, // as one that is stopped
		"receives, and never answers": func(t *testing.T, c *net.UnixConn) { receive(t, c) },
		"closes":                      func(_ *testing.T, c *net.UnixConn) { c.Close() },
		"receives, and closes":        func(t *testing.T, c *net.UnixConn) { receive(t, c); c.Close() },
		"receives, has it block, and closes": func(t *testing.T, c *net.UnixConn) {
			receiveAndBlock(t, c)
			c.Close()
		},
		"receives, has it block, and refuses": func(t *testing.T, c *net.UnixConn) {
			receiveAndBlock(t, c)
			_, err := c.Write(ipc.Reply{Seq: 1}.Encode())
			check(t, err)
		},
		"answers to what it never got": func(t *testing.T, c *net.UnixConn) {
			_, err := c.Write(ipc.Reply{Seq: 7, Taken: true}.Encode())
			check(t, err)
		},
		"answers nonsense": func(t *testing.T, c *net.UnixConn) {
			_, err := c.Write([]byte("hello?"))
			check(t, err)
		},
		"answers with descriptors": func(t *testing.T, c *net.UnixConn) {
			f, err := os.Open("/dev/null")
			check(t, err)
			defer f.Close()
			_, _, err = c.WriteMsgUnix([]byte("{}"), unix.UnixRights(int(f.Fd()), int(f.Fd())), nil)
			check(t, err)
		},
	} {
		for server, serve := range servers() {
			t.Run(name+"/"+server, func(t *testing.T) {
				t.Parallel()
				s := newSiteWithin(t, time.Second, serve)
				c, in := dial(t, s.addr)
				send(t, c, get)
				response(t, in)
				before := s.now
				s.now = s.start()
				pair := s.give(before, ipc.RoleFrom)
				s.drain(before, ipc.ReasonRoll)
				<-before.Draining()
				harm(t, pair)
				for last := false; !last; { // it is told when the predecessor knows that it stays
					send(t, c, get)
					last = response(t, in)
				}
				s.ended(before)
				if n := before.Counters(); n.MovedOut != 0 || n.Open != 0 {
					t.Errorf("counted %+v", n)
				}
			})
		}
	}
}

func ended(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// What a successor has refused, or had when it died, goes to the next one.
func TestNextSuccessorTakesWhatIsLeft(t *testing.T) {
	for what, end := range map[string]func(t *testing.T, c *net.UnixConn){
		"dead": func(*testing.T, *net.UnixConn) {},
		"refuses": func(t *testing.T, c *net.UnixConn) {
			t.Helper()
			_, err := c.Write(ipc.Reply{Seq: 1}.Encode())
			check(t, err)
		},
	} {
		for server, serve := range servers() {
			t.Run(what+"/"+server, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, serve)
				c, in := dial(t, s.addr)
				send(t, c, get)
				response(t, in)
				before := s.now
				s.now = s.start()
				pair := s.give(before, ipc.RoleFrom)
				s.drain(before, ipc.ReasonRoll)
				_, _, _, _, err := pair.ReadMsgUnix(make([]byte, ipc.MaxTransfer), nil)
				check(t, err)
				end(t, pair)
				pair.Close()
				waitFor(t, "the end of the first successor", func() bool { return !ended(before.Successor()) })
				s.join(before, s.now)
				s.ended(before)
				send(t, c, get)
				if response(t, in) || s.now.Counters().MovedIn != 1 {
					t.Errorf("it has not moved: %+v", s.now.Counters())
				}
			})
		}
	}
}

// A predecessor that sends what it should not, or very much of it, takes nothing from the
// successor: it refuses, closes what came along, and serves on.
func TestPredecessorsThatHarm(t *testing.T) {
	s := newSite(t, servers()["net/http"])
	null, err := os.Open("/dev/null")
	check(t, err)
	defer null.Close()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer other.Close()
	listens, err := other.(*net.TCPListener).File()
	check(t, err)
	defer listens.Close()
	read, write, err := os.Pipe()
	check(t, err)
	defer read.Close()
	transfer := func(c *net.UnixConn, tr ipc.Transfer, fds ...int) ipc.Reply {
		t.Helper()
		packet, err := tr.Encode()
		check(t, err)
		_, _, err = c.WriteMsgUnix(packet, unix.UnixRights(fds...), nil)
		check(t, err)
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		check(t, err)
		r, err := ipc.ParseReply(buf[:n])
		check(t, err)
		return r
	}
	pair := s.give(s.now, ipc.RoleTo)
	for seq := uint64(1); seq <= 2000; seq++ {
		tr, fd := ipc.Transfer{Seq: seq, Listener: "http"}, int(write.Fd())
		switch seq % 5 {
		case 0:
			fd = int(null.Fd())
		case 1:
			fd = int(listens.Fd())
		case 2:
			tr.Listener = "nobody's"
		case 3:
			tr.Own, tr.State = true, bytes.Repeat([]byte("x"), ipc.MaxState)
		}
		if r := transfer(pair, tr, fd, int(null.Fd())); r.Taken || r.Seq != seq {
			t.Fatalf("%d: %+v", seq, r)
		}
	}
	// All copies of the writing end are closed, but for the test's own.
	write.Close()
	check(t, read.SetReadDeadline(time.Now().Add(enough)))
	if n, err := read.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("a descriptor has been kept: %d, %v", n, err)
	}
	_, err = pair.Write([]byte("nonsense"))
	check(t, err)
	if _, err := pair.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after nonsense: %v", err)
	}
	c, in := dial(t, s.addr)
	send(t, c, get)
	response(t, in)
	if n := s.now.Counters(); n.MovedIn != 0 || n.Open != 1 {
		t.Errorf("counted %+v", n)
	}
}

// A response that is under way ends where it began, also one of more bytes than 31 bits count,
// and its connection moves then.
func TestLongResponseThenMoves(t *testing.T) {
	const size = 1<<31 + 1<<20
	for name, serve := range map[string]func(w *worker.Worker, ln net.Listener) error{
		"net/http": func(w *worker.Worker, ln net.Listener) error {
			return httpserve.Serve(w, &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/big" {
					rw.Header().Set("Content-Length", fmt.Sprint(size))
					_, _ = zeros(size).WriteTo(rw)
				}
			})}, ln)
		},
		"fasthttp": func(w *worker.Worker, ln net.Listener) error {
			return fasthttpserve.Serve(w, &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
				if string(ctx.Path()) == "/big" {
					ctx.SetBodyStream(zeros(size), size)
				}
			}}, ln)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, serve)
			idle, idleIn := dial(t, s.addr)
			send(t, idle, get)
			response(t, idleIn)
			c, in := dial(t, s.addr)
			send(t, c, strings.Replace(get, "/", "/big", 1))
			resp, err := http.ReadResponse(in, nil)
			check(t, err)
			before := s.roll()
			waitFor(t, "the other connection's move", func() bool { return before.Counters().MovedOut == 1 })
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 1<<20))
			if err != nil || n != size || resp.Close {
				t.Fatalf("read %d, %v, the last %t", n, err, resp.Close)
			}
			s.ended(before)
			send(t, c, get)
			if response(t, in) || before.Counters().MovedOut != 2 {
				t.Errorf("it has not moved: %+v", before.Counters())
			}
		})
	}
}

// zeros is so many bytes, in blocks that are larger than the servers'.
type zeros int64

func (z zeros) WriteTo(w io.Writer) (written int64, err error) {
	block := make([]byte, 1<<20)
	for err == nil && written < int64(z) {
		var n int
		n, err = w.Write(block[:min(int64(len(block)), int64(z)-written)])
		written += int64(n)
	}
	return written, err
}

func (zeros) Read([]byte) (int, error) { return 0, errors.New("read by WriteTo alone") }

// A connection that has moved is idle, as it was: the server's timeout of a first request
// counts from that one on, and an idle one is closed in time.
func TestTimeoutsOfMovedConnections(t *testing.T) {
	serve := func(first, idle time.Duration) map[string]func(w *worker.Worker, ln net.Listener) error {
		return map[string]func(w *worker.Worker, ln net.Listener) error{
			"net/http": func(w *worker.Worker, ln net.Listener) error {
				return httpserve.Serve(w, &http.Server{
					Handler: http.HandlerFunc(app), ReadHeaderTimeout: first, IdleTimeout: idle,
				}, ln)
			},
			"fasthttp": func(w *worker.Worker, ln net.Listener) error {
				return fasthttpserve.Serve(w, &fasthttp.Server{
					Handler: func(*fasthttp.RequestCtx) {}, ReadTimeout: first, IdleTimeout: idle,
				}, ln)
			},
		}
	}
	for name, serve := range serve(2*time.Second, enough) {
		t.Run(name+"/first request", func(t *testing.T) {
			t.Parallel()
			s := newSite(t, serve)
			c, in := dial(t, s.addr)
			send(t, c, get)
			response(t, in)
			s.ended(s.roll())
			s.ended(s.roll()) // it moves again without a request between
			late, lateIn := dial(t, s.addr)
			send(t, late, get[:10])
			_, err := io.Copy(io.Discard, lateIn)
			check(t, err) // the timeout of its first request has passed
			send(t, c, get)
			if response(t, in) || s.now.Counters().MovedIn != 1 {
				t.Errorf("it has not moved: %+v", s.now.Counters())
			}
		})
	}
	for name, serve := range serve(enough, 2*time.Second) {
		t.Run(name+"/idle", func(t *testing.T) {
			t.Parallel()
			s := newSite(t, serve)
			c, in := dial(t, s.addr)
			send(t, c, get)
			response(t, in)
			s.ended(s.roll())
			if n, err := in.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("read %d, %v", n, err)
			}
			waitFor(t, "the count", func() bool { return s.now.Counters().Open == 0 })
		})
	}
}

// Clients that reset while their connections move leave nothing behind.
func TestClientsThatReset(t *testing.T) {
	for name, serve := range servers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, serve)
			for range 5 {
				var clients []net.Conn
				for range 50 {
					c, err := net.Dial("tcp", s.addr)
					check(t, err)
					defer c.Close()
					check(t, c.SetDeadline(time.Now().Add(enough)))
					send(t, c, get)
					response(t, bufio.NewReader(c))
					clients = append(clients, c)
				}
				go func() {
					for _, c := range clients {
						_ = c.(*net.TCPConn).SetLinger(0)
						c.Close()
					}
				}()
				before := s.roll()
				s.ended(before)
				if n := before.Counters(); n.Open != 0 {
					t.Errorf("the predecessor has ended with %+v", n)
				}
				waitFor(t, "the successor's count", func() bool { return s.now.Counters().Open == 0 })
			}
		})
	}
}
