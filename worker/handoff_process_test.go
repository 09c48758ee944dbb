package worker_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/httpserve"
)

// mostFiles is the size of a successor's table of descriptors, of which it uses less than half.
const mostFiles = 100

// successor is a worker in a process of its own. It reads numbers, and leaves so many places
// of its table free.
func successor() {
	os.Setenv(ipc.EnvListenPID, strconv.Itoa(os.Getpid()))
	w := worker.New()
	ln, err := w.Listen("http", "")
	if err == nil {
		err = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: mostFiles, Max: mostFiles})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	w.OnHandoff(func(conn net.Conn, state []byte) {
		defer conn.Close()
		fmt.Fprintf(conn, "went on after %s\n", state)
		_, _ = io.Copy(io.Discard, conn)
	})
	_ = json.NewEncoder(os.Stdout).Encode(found{PID: os.Getpid()})
	go func() {
		var taken []int
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			fd, err := 0, error(nil)
			for err == nil {
				if fd, err = unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0); err == nil {
					taken = append(taken, fd)
				}
			}
			free, _ := strconv.Atoi(in.Text())
			keep := max(0, len(taken)-free)
			for _, fd := range taken[keep:] {
				unix.Close(fd)
			}
			taken = taken[:keep]
			fmt.Println(err)
		}
	}()
	fmt.Println("served", httpserve.Serve(w, &http.Server{Handler: http.HandlerFunc(app)}, ln))
}

// spawn starts a successor, and returns how many descriptors it has.
func (s *site) spawn() (m *member, p *process, descriptors int) {
	s.t.Helper()
	m, passed := s.ends()
	var files []*os.File
	for _, fd := range []int{passed.Sockets[0].FD, passed.Channel, passed.Page} {
		f := os.NewFile(uintptr(fd), "passed")
		defer f.Close()
		files = append(files, f)
	}
	p = spawn(s.t, "successor", files, "LISTEN_FDS=1", "LISTEN_FDNAMES=http", "FORKD_CHANNEL_FD=4", "FORKD_PAGE_FD=5")
	s.awaitReady(m)
	s.t.Cleanup(func() { m.channel.Close(); unix.Close(m.page) })
	return m, p, p.descriptors()
}

// leave has a successor fill its table, and then free some places of it.
func (p *process) leave(free int) {
	p.t.Helper()
	fmt.Fprintln(p.in, free)
	p.says(unix.EMFILE.Error())
}

func (p *process) descriptors() int {
	p.t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID))
	check(p.t, err)
	return len(open)
}

// counts waits for the open connections of a worker, and how many of them it has taken over.
func (s *site) counts(m *member, open int64, movedIn uint64) {
	s.t.Helper()
	var c ipc.Counters
	waitFor(s.t, "the count", func() bool {
		var err error
		c, err = ipc.ReadPage(m.page)
		check(s.t, err)
		return int64(c.Open) == open && c.MovedIn == movedIn
	})
}

// A successor whose table of descriptors is full, or has no room for the copy that package
// net makes, refuses; of a pair it gets no end. The connection is its predecessor's meanwhile.
// When there is room, the next pair brings what is left over. Nothing is left behind.
func TestSuccessorWithoutDescriptors(t *testing.T) {
	own := make(chan net.Conn, 1)
	s := newSite(t, func(w *worker.Worker, ln net.Listener) error {
		return httpserve.Serve(w, &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/own" {
				if conn, _, err := rw.(http.Hijacker).Hijack(); err == nil {
					own <- conn
				}
			}
		})}, ln)
	})
	open := func(path string) (net.Conn, *bufio.Reader) {
		c, in := dial(t, s.addr)
		send(t, c, strings.Replace(get, "/", path, 1))
		return c, in
	}
	asks, asksIn := open("/")
	response(t, asksIn)
	stays, staysIn := open("/")
	response(t, staysIn)
	first, firstIn := open("/own")
	firstOwn := <-own
	later, laterIn := open("/own")
	laterOwn := <-own

	to, p, descriptors := s.spawn()
	before := s.now
	s.now = s.start()
	s.join(before, to)
	<-before.Successor()
	check(t, before.Handoff(firstOwn, []byte("the first"))) // the successor has its end of the pair
	expectLine(t, firstIn, "went on after the first")
	for _, free := range []int{1, 0} {
		p.leave(free)
		if n := p.descriptors(); n != mostFiles-free {
			t.Fatalf("the successor has %d descriptors", n)
		}
		if err := before.Handoff(laterOwn, nil); !errors.Is(err, worker.ErrRefused) {
			t.Errorf("with %d free: %v", free, err)
		}
	}
	s.drain(before, ipc.ReasonRoll)
	<-before.Draining()
	for last := false; !last; { // the predecessor's answer, once it knows that the connection stays
		send(t, asks, get)
		last = response(t, asksIn)
	}
	for i := range 2 {
		p.leave(0)
		next := before.Successor()
		s.join(before, to)
		<-next
		waitFor(t, "the end of a pair that has not arrived", func() bool { return !ended(before.Successor()) })
		// The first of these joins has ended the pair before.
		waitFor(t, "the successor's descriptors", func() bool { return p.descriptors() == mostFiles-1+i })
	}
	if err := before.Handoff(laterOwn, nil); !errors.Is(err, worker.ErrNoSuccessor) {
		t.Errorf("without a pair: %v", err)
	}
	s.counts(to, 1, 1)

	p.leave(mostFiles)
	s.join(before, to)
	<-before.Successor()
	check(t, before.Handoff(laterOwn, []byte("the later")))
	expectLine(t, laterIn, "went on after the later")
	s.ended(before)
	send(t, stays, get)
	if response(t, staysIn) {
		t.Error("it has not moved")
	}
	s.counts(to, 3, 3)
	for _, c := range []net.Conn{first, later, stays} {
		c.Close()
	}
	s.counts(to, 0, 3)
	if c, n := before.Counters(), p.descriptors(); c.MovedOut != 3 || c.Open != 0 || n != descriptors+1 { // the pair
		t.Errorf("the predecessor has ended with %+v; the successor has %d descriptors, and had %d", c, n, descriptors)
	}
}

// A successor that is stopped for longer than its predecessor waits gets what is left when it
// goes on: meanwhile the predecessor serves.
func TestSuccessorThatIsStoppedForAWhile(t *testing.T) {
	for name, serve := range servers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSiteWithin(t, time.Second, serve)
			type client struct {
				net.Conn
				in *bufio.Reader
			}
			var clients []client
			for range 50 { // more than wait for an answer
				c, in := dial(t, s.addr)
				send(t, c, get)
				response(t, in)
				clients = append(clients, client{c, in})
			}
			to, p, descriptors := s.spawn()
			before := s.now
			s.now = s.start()
			s.join(before, to)
			<-before.Successor()
			p.signal(syscall.SIGSTOP)
			waitFor(t, "the stop", func() bool {
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
				check(t, err)
				return strings.Contains(string(stat), ") T ")
			})
			s.drain(before, ipc.ReasonRoll)
			<-before.Draining()
			waitFor(t, "no successor", func() bool { return !ended(before.Successor()) })
			send(t, clients[0].Conn, get)
			if !response(t, clients[0].in) {
				t.Error("it was not told to open another")
			}
			p.signal(syscall.SIGCONT)
			waitFor(t, "a successor", func() bool { return ended(before.Successor()) })
			s.ended(before)
			if c := before.Counters(); c.Open != 0 || c.MovedOut != 49 {
				t.Errorf("the predecessor has ended with %+v", c)
			}
			for _, c := range clients[1:] {
				send(t, c.Conn, get)
				if response(t, c.in) {
					t.Error("it has not moved")
				}
			}
			s.counts(to, 49, 49)
			for _, c := range clients {
				c.Close()
			}
			s.counts(to, 0, 49)
			if n := p.descriptors(); n != descriptors+1 { // the pair
				t.Errorf("the successor has %d descriptors, and had %d", n, descriptors)
			}
		})
	}
}
