package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/closing/closingtest"
)

// What comes after a request does not end it; the client's leaving does, and the
// answer to who has closed one direction only says that it was the client.
func TestOnlyLeavingEndsARequest(t *testing.T) {
	began := make(chan context.Context, 1)
	finish := make(chan struct{})
	b := &fake{app: sample(), reload: func(ctx context.Context, _ Reload) (Rolled, error) {
		began <- ctx
		select {
		case <-finish:
			return Rolled{Generation: 2, Result: ResultDone}, nil
		case <-ctx.Done():
			return Rolled{}, ctx.Err()
		}
	}}
	at := serving(t, b, patient(), os.Geteuid())
	reload := func(after string) (*closing.Conn, context.Context) {
		conn, err := dial(at.socket())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprint(conn, "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"+after)
		return conn, <-began
	}
	answer := func(conn io.Reader) string {
		data, err := io.ReadAll(conn)
		if err != nil && !errors.Is(err, unix.ECONNRESET) { // so it ends for who has sent what is not read
			t.Error(err)
		}
		return string(data)
	}
	for _, after := range []string{"\r\n", "\r\nGET /v1/status HTTP/1.1\r\n\r\n", strings.Repeat("x", 3*maxHeader)} {
		conn, ctx := reload(after)
		select {
		case <-ctx.Done():
			t.Errorf("%.9q after a request ended it: %v", after, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond): // that nothing happens is what is waited for
		}
		finish <- struct{}{}
		if text := answer(conn); !strings.HasPrefix(text, "HTTP/1.1 200 ") {
			t.Errorf("with %.9q after a request: %s", after, text)
		}
	}
	conn, _ := reload("")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if text := answer(conn); !strings.HasPrefix(text, "HTTP/1.1 503 ") || !strings.Contains(text, errLeft.Text) {
		t.Errorf("who has left got: %s", text)
	}
}

// troubled is a listener that has trouble first.
type troubled struct {
	net.Listener
	first []error
}

func (l *troubled) Accept() (net.Conn, error) {
	if len(l.first) > 0 {
		err := l.first[0]
		l.first = l.first[1:]
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
	}
	return l.Listener.Accept()
}

// accept(2) passes on what ails the network at the moment. None of it ends the
// server; that its listener is closed does.
func TestTroubleDoesNotEndTheServer(t *testing.T) {
	local, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := patient()
	l.finish = 10 * time.Millisecond
	ended := make(chan error, 1)
	go func() {
		ended <- newAPI(&fake{app: sample()}, l, access{everybody: true}).serve(t.Context(), &troubled{local, []error{
			unix.EPROTO, unix.ENETDOWN, unix.EHOSTUNREACH, unix.ENOBUFS, unix.EPERM, unix.EOPNOTSUPP,
			unix.ENONET, unix.ETIMEDOUT, unix.EMFILE, errors.New("something new"),
		}})
	}()
	response, err := http.Get("http://" + local.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("status %d", response.StatusCode)
	}
	local.Close()
	if err := <-ended; err == nil {
		t.Errorf("with its listener closed it ended by %v", err)
	}
}

// A master that has no descriptor left can be asked, and stopped.
func TestNoDescriptors(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(fullVariable, "yes")
	cmd := startMaster(t, dir)
	at := Location{Name: "shop", Dir: dir}
	for range 3 {
		if _, err := connect(t, at).Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := connect(t, at).Stop(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// Descriptors whose close(2) blocks, sent along with a request or after it, hold up
// neither the next client nor the end.
func TestDescriptorsThatLinger(t *testing.T) {
	silent := closingtest.Silent(t)
	path := filepath.Join(t.TempDir(), "control.sock")
	ln, err := net.Listen("unix", path) // as on a kernel without SO_PASSRIGHTS
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- newAPI(&fake{app: sample()}, patient(), access{owner: os.Geteuid(), group: -1}).serve(ctx, ln)
	}()
	const ask = "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, text := range []string{"G", ask, ask + strings.Repeat(ask, 1000), ask} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		raw, err := conn.(*net.UnixConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) { err = closingtest.Send(int(fd), 3, text, silent) })
		if err != nil {
			t.Fatal(err)
		}
		if text == "G" {
			continue // and says no more
		}
		closingtest.Returns(t, "the answer", func() {
			if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
				t.Errorf("%q, %v", line, err)
			}
		})
	}
	cancel()
	closingtest.Returns(t, "the server", func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Bytes that are no request get an error in JSON too.
func TestNoRequest(t *testing.T) {
	at := serving(t, &fake{app: sample()}, patient(), os.Geteuid())
	for sent, want := range map[string]string{
		"hello\r\n\r\n":                 `400 {"error":"400 Bad Request"}`,
		"GET /healthz HTTP/1.1\r\n\r\n": `400 {"error":"400 Bad Request: missing required Host header"}`,
		"GET / HTTP/1.1\r\nA: " + strings.Repeat("x", maxHeader) + "\r\n\r\n": `431 {"error":"431 Request Header Fields Too Large"}`,
		"POST / HTTP/1.1\r\nHost: x\r\nExpect: more\r\n\r\n":                  `417 {"error":"417 Expectation Failed"}`,
	} {
		conn, err := dial(at.socket())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprint(conn, sent)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if got := fmt.Sprint(response.StatusCode, " ", string(body)); err != nil || got != want+"\n" {
			t.Errorf("%.20q: %s, %v; want %s", sent, got, err, want)
		}
		conn.Close()
	}
}

// A full server closes the clients that are silent, not those whose requests it has
// not read yet.
func TestFullServerClosesTheSilent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	l := standard()
	l.clients, l.busyRead = 3, time.Millisecond
	full := newListener(t.Context(), ln, l)
	defer full.spare.Close()
	var accepted []*conn
	for _, text := range []string{"GET /v1/status HTTP/1.1\r\n", "", "GET ", ""} {
		client, err := dial(path)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		fmt.Fprint(client, text)
		c, err := full.Accept() // the fourth needs another's slot
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		accepted = append(accepted, c.(*conn))
	}
	for i, c := range accepted {
		if closed := c.decided.Load(); closed != (i == 1) {
			t.Errorf("connection %d is closed: %v", i, closed)
		}
	}
}
