package httpserve_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker/httpserve"
	"github.com/forkd/forkd/worker/internal/servetest"
)

// told is one connection of HTTP/2 after another; those that are shed are told
// GOAWAY with their next answer, and closed; idle ones are closed.
func told(t *testing.T, scheme string, srv *http.Server, client *http.Transport) {
	m := servetest.NewMaster(t)
	w := m.Worker()
	ln, err := w.Listen("http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv.Handler = handler(t, w, servetest.App{})
	go func() { _ = httpserve.Serve(w, srv, ln) }()
	m.Expect(ipc.Ready{})

	ctx, cancel := context.WithTimeout(t.Context(), servetest.Timeout)
	defer cancel()
	get := func(c *http.ClientConn) {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "ok" {
			t.Fatalf("%q, %v", body, err)
		}
		res.Body.Close()
		if res.ProtoMajor != 2 || res.StatusCode != http.StatusOK {
			t.Fatalf("%s, %s", res.Proto, res.Status)
		}
	}
	var conns [3]*http.ClientConn
	for i := range conns {
		if conns[i], err = client.NewClientConn(ctx, scheme, ln.Addr().String()); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
		get(conns[i])
	}
	busy, idle, other := conns[0], conns[1], conns[2]
	// What is no request changes nothing: here the answer to the server's settings.
	m.WaitFor(ipc.Counters{Attached: true, Open: 3, Accepts: 3, Requests: 3})
	m.Send(ipc.Shed{Count: 2})
	requests := uint64(3)
	for busy.Available() > 0 {
		get(busy)
		get(other)
		requests += 2
	}
	m.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 3, Requests: requests})
	if idle.Available() != 0 && idle.Err() == nil {
		t.Error("the idle one is open")
	}
	get(other)
	if other.Available() == 0 {
		t.Error("the third is told to go away too")
	}
}

func TestShedOfHTTP2(t *testing.T) {
	t.Parallel()
	server, client := config(t)
	told(t, "https", &http.Server{TLSConfig: server}, &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: true})
}

func TestShedOfUnencryptedHTTP2(t *testing.T) {
	t.Parallel()
	told(t, "http", &http.Server{Protocols: protocols(true)}, &http.Transport{Protocols: protocols(true)})
}

// The program's own ConnContext is called, and its values come with requests.
func TestOwnConnContext(t *testing.T) {
	t.Parallel()
	m := servetest.NewMaster(t)
	w := m.Worker()
	ln, err := w.Listen("http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	type key struct{}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			c, _ := r.Context().Value(key{}).(net.Conn)
			if c == nil || c.RemoteAddr().String() != r.RemoteAddr || r.Context().Value(http.ServerContextKey) == nil {
				t.Errorf("the context of the request has %v", c)
			}
		}),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, key{}, c) },
	}
	go func() { _ = httpserve.Serve(w, srv, ln) }()
	m.Expect(ipc.Ready{})
	client := &http.Client{Transport: &http.Transport{}, Timeout: servetest.Timeout}
	defer client.CloseIdleConnections()
	get := func() *http.Response {
		t.Helper()
		res, err := client.Get("http://" + ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res
	}
	get()
	// And the worker still finds the connection.
	m.Send(ipc.Shed{Count: 1})
	for end := time.Now().Add(servetest.Timeout); !get().Close; {
		if time.Now().After(end) {
			t.Fatal("not told to close")
		}
	}
}
