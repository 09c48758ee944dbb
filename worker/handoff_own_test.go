package worker_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/httpserve"
)

// owner is a worker that hands its connections over once it drains, with a state. What
// comes of it is the client's next line.
func owner(w *worker.Worker, ln net.Listener) error {
	w.OnHandoff(func(conn net.Conn, state []byte) {
		defer conn.Close()
		fmt.Fprintf(conn, "went on after %s\n", state)
	})
	return httpserve.Serve(w, &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		conn, _, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		fmt.Fprintln(conn, "hello")
		<-w.Draining()
		if r.URL.Path == "/closed" {
			conn.Close()
		}
		if err := w.Handoff(conn, []byte("GET "+r.URL.Path)); err != nil {
			fmt.Fprintln(conn, err)
			conn.Close()
		}
	})}, ln)
}

// A program hands its own connections over, with a state.
func TestHandoffOfTheProgramsOwn(t *testing.T) {
	t.Parallel()
	s := newSite(t, owner)
	open := func(path string) *bufio.Reader {
		c, in := dial(t, s.addr)
		send(t, c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		expectLine(t, in, "hello")
		return in
	}
	// One that is closed already hinders no other.
	for range 3 {
		open("/closed")
	}
	in := open("/")
	before := s.roll()
	s.ended(before)
	expectLine(t, in, "went on after GET /")
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("then %v", err)
	}
	waitFor(t, "the count", func() bool { return s.now.Counters() == ipc.Counters{Attached: true, Passed: true, MovedIn: 1} })

	// Without a successor it stays the program's.
	in = open("/")
	s.drain(s.now, ipc.ReasonStop)
	expectLine(t, in, "cannot hand over the connection: "+worker.ErrNoSuccessor.Error())
}

// Successor says when there is one, and each is another channel.
func TestSuccessor(t *testing.T) {
	t.Parallel()
	s := newSite(t, owner)
	is := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	none := s.now.Successor()
	if is(none) {
		t.Error("there is a successor at the start")
	}
	next, another := s.start(), s.start()
	s.join(s.now, next)
	<-none
	first := s.now.Successor()
	s.join(s.now, another)
	waitFor(t, "another one", func() bool { return s.now.Successor() != first })
	if second := s.now.Successor(); !is(second) {
		t.Error("the second is none")
	}
	for _, m := range []*member{next, another} {
		s.drain(m, ipc.ReasonStop)
		s.ended(m)
	}
}

// counting is a worker whose clients send lines, each of which is answered with how many there
// were on its connection. Once it drains it hands the connections over, with that number and
// what was read of the next line.
func counting(entered chan<- struct{}) func(w *worker.Worker, ln net.Listener) error {
	return func(w *worker.Worker, ln net.Listener) error {
		w.OnHandoff(func(conn net.Conn, state []byte) { countLines(w, conn, state) })
		return httpserve.Serve(w, &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/late" {
				entered <- struct{}{}
				<-w.Draining()
			}
			conn, rest, err := rw.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			ahead, _ := rest.Reader.Peek(rest.Reader.Buffered())
			countLines(w, conn, append([]byte("0 "), ahead...))
		})}, ln)
	}
}

func countLines(w *worker.Worker, conn net.Conn, state []byte) {
	defer conn.Close()
	ends := make(chan struct{})
	defer close(ends)
	go func() {
		for _, next := range []func() <-chan struct{}{w.Draining, w.Successor} {
			select {
			case <-next():
			case <-ends:
				return
			}
		}
		_ = conn.SetReadDeadline(time.Unix(1, 0))
	}()
	number, ahead, _ := bytes.Cut(state, []byte(" "))
	n, _ := strconv.Atoi(string(number))
	buf := make([]byte, 16)
	for {
		for line, rest, whole := bytes.Cut(ahead, []byte("\n")); whole; line, rest, whole = bytes.Cut(ahead, []byte("\n")) {
			n++
			if _, err := fmt.Fprintf(conn, "%s %d\n", line, n); err != nil {
				return
			}
			ahead = rest
		}
		k, err := conn.Read(buf)
		ahead = append(ahead, buf[:k]...)
		if errors.Is(err, os.ErrDeadlineExceeded) && k == 0 {
			if err := w.Handoff(conn, fmt.Appendf(nil, "%d %s", n, ahead)); err != nil {
				fmt.Fprintln(conn, err)
			}
			return
		}
		if err != nil {
			return
		}
	}
}

// lines sends lines until there were so many or stop is closed, some of them in pieces or
// together, and wants their numbers back.
func lines(c net.Conn, most int, stop <-chan struct{}, sent *atomic.Int64) error {
	in := bufio.NewReader(c)
	for n := 1; n <= most && !ended(stop); {
		text, want := "", ""
		for range 1 + rand.IntN(3) {
			text += fmt.Sprintf("line %d\n", n)
			want += fmt.Sprintf("line %d %d\n", n, n)
			n++
		}
		cut := rand.IntN(len(text))
		for _, part := range []string{text[:cut], text[cut:]} {
			if _, err := io.WriteString(c, part); err != nil {
				return err
			}
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
			return fmt.Errorf("got %q, %w; want %q", got, err, want)
		}
		sent.Add(1)
	}
	return nil
}

// Connections that their programs hijack while a roll runs, before it and in the middle of it,
// move with it: no line is lost or counted twice, and each connection is counted once.
func TestProgramsOwnMoveUnderLoad(t *testing.T) {
	t.Parallel()
	const stay, late, short, rolls = 8, 4, 8, 6
	entered := make(chan struct{}, late)
	s := newSite(t, counting(entered))
	var dialed, sent atomic.Int64
	follow := func(path string, most int, stop <-chan struct{}) {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		dialed.Add(1)
		_ = c.SetDeadline(time.Now().Add(enough))
		if _, err = io.WriteString(c, strings.Replace(get, "/", path, 1)); err == nil {
			err = lines(c, most, stop, &sent)
		}
		if err != nil {
			t.Error(err)
		}
	}
	var comeAndGo, remain sync.WaitGroup
	stopShort, stopAll := make(chan struct{}), make(chan struct{})
	endShort := sync.OnceFunc(func() { close(stopShort); comeAndGo.Wait() })
	endAll := sync.OnceFunc(func() { close(stopAll); remain.Wait() })
	defer endAll()
	defer endShort()
	const always = 1 << 30
	for range stay {
		remain.Go(func() { follow("/", always, stopAll) })
	}
	for range short {
		comeAndGo.Go(func() {
			for !ended(stopShort) && !t.Failed() {
				follow("/", 1+rand.IntN(20), stopShort)
			}
		})
	}
	var all []*member
	for range rolls {
		for range late {
			remain.Go(func() { follow("/late", always, stopAll) })
		}
		for range late {
			<-entered
		}
		seen := sent.Load()
		waitFor(t, "lines", func() bool { return sent.Load() > seen+200 || t.Failed() })
		before := s.roll()
		s.ended(before)
		all = append(all, before)
	}
	endShort()
	waitFor(t, "the count of those that stay", func() bool { return s.now.Counters().Open == stay+rolls*late || t.Failed() })
	endAll()
	waitFor(t, "the count of none", func() bool { return s.now.Counters().Open == 0 })
	var sum ipc.Counters
	for _, m := range append(all, s.now) {
		c := m.Counters()
		sum.Open += c.Open
		sum.Accepts += c.Accepts
		sum.Requests += c.Requests
		sum.MovedIn += c.MovedIn
		sum.MovedOut += c.MovedOut
	}
	n := uint64(dialed.Load())
	if want := (ipc.Counters{Accepts: n, Requests: n, MovedIn: sum.MovedOut, MovedOut: sum.MovedOut}); sum != want {
		t.Errorf("counted %+v of %d connections", sum, n)
	}
	if least := uint64(stay*rolls + late*rolls*(rolls+1)/2); sum.MovedOut < least {
		t.Errorf("%d have moved, want %d or more", sum.MovedOut, least)
	}
	t.Logf("%d connections, %d moves, %d times lines", n, sum.MovedOut, sent.Load())
}
