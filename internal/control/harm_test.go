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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSilentAndSlowClientsAreLetGo(t *testing.T) {
	at := serving(t, &fake{app: sample()}, quick(), os.Geteuid())
	for name, send := range map[string]string{
		"silent":           "",
		"half a header":    "GET /v1/status HTTP/1.1\r\nHost:",
		"body never comes": "POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
	} {
		conn, err := dial(at.socket())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, send)
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		began := time.Now()
		text, err := io.ReadAll(conn)
		if err != nil || strings.HasPrefix(name, "body") != strings.HasPrefix(string(text), "HTTP/1.1 408 ") {
			t.Errorf("%s: after %v: %q, %v", name, time.Since(began), text, err)
		}
		conn.Close()
	}
	if code, _, _ := ask(t, at, "GET", "/v1/status", ""); code != 200 {
		t.Errorf("the next client got %d", code)
	}
}

// A client that asks and does not take the answer keeps its connection for the
// write timeout, no longer.
func TestClientThatDoesNotReadIsLetGo(t *testing.T) {
	big := sample()
	big.Slots = []Slot{{Reason: strings.Repeat("x", 4<<20)}}
	l := quick()
	l.clients = 1
	at := serving(t, &fake{app: big}, l, os.Geteuid())
	conn, err := dial(at.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
	if code, _, _ := ask(t, at, "GET", "/healthz", ""); code != 200 { // behind it, in the queue
		t.Errorf("the next client got %d", code)
	}
}

// A thousand at once are answered, or told that the queue is full, and nothing
// is left of them.
func TestManyClientsAtOnce(t *testing.T) {
	b := &fake{app: sample()}
	l := patient()
	l.clients = 16
	at := serving(t, b, l, os.Geteuid())
	var answered, refused atomic.Int32
	began := time.Now()
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() {
			c, err := Connect(at)
			if err == nil {
				defer c.Close()
				c.wait = time.Minute
				_, err = c.Status(context.Background())
			}
			switch _, full := errors.AsType[*NoAnswerError](err); {
			case err == nil:
				answered.Add(1)
			case full && strings.Contains(err.Error(), "its queue of clients is full"):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	t.Logf("%d answered, %d refused, in %v", answered.Load(), refused.Load(), time.Since(began))
	if answered.Load() == 0 || b.asked != int(answered.Load()) {
		t.Errorf("%d answers to %d questions", answered.Load(), b.asked)
	}
}

// A thousand that say nothing, or half of what they want, give way to one that
// asks, however long each might wait for its request.
func TestManySilentClientsAtOnce(t *testing.T) {
	l := patient()
	l.read, l.busyRead = time.Hour, standard().busyRead
	at := serving(t, &fake{app: sample()}, l, os.Geteuid())
	var silent []net.Conn
	defer func() {
		for _, conn := range silent {
			conn.Close()
		}
	}()
	for i := range 1000 {
		conn, err := dial(at.socket())
		if errors.Is(err, unix.EAGAIN) {
			break // the queue is full already
		}
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, conn)
		fmt.Fprint(conn, []string{"", "GET /v1/status HTTP/1.1\r\nHost:", "GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"}[i%3])
	}
	c := connect(t, at)
	c.wait = time.Minute
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
	// Who has waited longest goes.
	for _, conn := range silent[:len(silent)-l.clients] {
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		if text, err := io.ReadAll(conn); (err != nil && !errors.Is(err, unix.ECONNRESET)) || len(text) > 0 {
			t.Fatalf("%q, %v", text, err)
		}
	}
	_ = silent[len(silent)-1].SetReadDeadline(time.Now())
	if text, err := io.ReadAll(silent[len(silent)-1]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("there is room for the last, and it got %q, %v", text, err)
	}
}

// endless is a body that never ends by itself.
type endless struct{ taken atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.taken.Add(int64(len(p)))
	return len(p), nil
}

// A client that sends 1 GiB, with its length said or not, is refused after
// little of it.
func TestGigabyteIsRefused(t *testing.T) {
	b := &fake{app: sample(), send: func(Message) (Sent, error) {
		t.Error("sent")
		return Sent{}, nil
	}}
	at := serving(t, b, patient(), os.Geteuid())
	for _, path := range []string{"/v1/send", "/v1/stop", "/nosuch"} {
		for _, length := range []int64{1 << 30, -1} {
			body := &endless{}
			c := connect(t, at)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://x"+path, io.LimitReader(body, 1<<30))
			if err != nil {
				t.Fatal(err)
			}
			request.ContentLength = length
			_, err = c.exchange(request, new(any))
			if refused, ok := errors.AsType[*Error](err); !ok || refused.Code != 413 || !strings.Contains(refused.Text, "larger than") {
				t.Errorf("%s, length %d: %v", path, length, err)
			}
			if n := body.taken.Load(); n > 4<<20 {
				t.Errorf("%s, length %d: %d bytes were taken", path, length, n)
			}
			cancel()
		}
	}
}

// Whoever leaves in the middle of a request, or before the answer, is forgotten.
func TestClientsThatLeaveMidway(t *testing.T) {
	at := serving(t, &fake{app: sample()}, patient(), os.Geteuid())
	for _, send := range []string{
		"",
		"GET",
		"GET /v1/status HTTP/1.1\r\nHost: x",
		"POST /v1/send HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{\"message\":",
		"POST /v1/send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n{",
		"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		for range 20 {
			conn, err := dial(at.socket())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(conn, send)
			conn.Close()
		}
	}
	if code, _, _ := ask(t, at, "GET", "/v1/status", ""); code != 200 {
		t.Errorf("the next client got %d", code)
	}
}

// Large messages pass a few at a time: memory is bounded, and nobody is refused
// for it.
func TestLargeMessagesTakeTurns(t *testing.T) {
	var now, most atomic.Int32
	b := &fake{app: sample(), send: func(Message) (Sent, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for {
			if seen := most.Load(); n <= seen || most.CompareAndSwap(seen, n) {
				return Sent{Workers: 1}, nil
			}
		}
	}}
	l := patient()
	l.large = 2
	at := serving(t, b, l, os.Geteuid())
	message := []byte(`"` + strings.Repeat("x", 100_000) + `"`)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			c, err := Connect(at)
			if err == nil {
				defer c.Close()
				c.wait = time.Minute
				_, err = c.Send(context.Background(), Message{Message: message})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if most.Load() > 2 {
		t.Errorf("%d at once", most.Load())
	}
}

// curl asks before it sends a large body.
func TestExpectContinue(t *testing.T) {
	at := serving(t, &fake{app: sample()}, patient(), os.Geteuid())
	conn, err := dial(at.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprint(conn, "POST /v1/drain HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	lines := bufio.NewReader(conn)
	if line, err := lines.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	fmt.Fprint(conn, "{}")
	rest, err := io.ReadAll(lines)
	if err != nil || !strings.HasPrefix(string(rest), "\r\nHTTP/1.1 200 OK\r\n") {
		t.Errorf("%q, %v", rest, err)
	}
}
