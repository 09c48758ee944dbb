package httpserve_test

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/httpserve"
	"github.com/forkd/forkd/worker/internal/servetest"
)

// config is a TLS configuration with a certificate, and a client's for it.
func config(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	client = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	client.ServerName = "example.com"
	return &tls.Config{Certificates: s.TLS.Certificates}, client
}

// goesAway checks that an HTTP/2 connection is told GOAWAY with the answer to
// its next request in the drain, and closed.
func goesAway(t *testing.T, scheme string, srv *http.Server, client *http.Transport) {
	m := servetest.NewMaster(t)
	w := m.Worker()
	ln, err := w.Listen("http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv.Handler = handler(t, w, servetest.App{})
	served := make(chan error, 1)
	go func() { served <- httpserve.Serve(w, srv, ln) }()
	m.Expect(ipc.Ready{})

	ctx, cancel := context.WithTimeout(t.Context(), servetest.Timeout)
	defer cancel()
	c, err := client.NewClientConn(ctx, scheme, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	get := func() {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.ProtoMajor != 2 || res.StatusCode != http.StatusOK {
			t.Fatalf("%s, %s", res.Proto, res.Status)
		}
	}
	get()
	if c.Available() == 0 {
		t.Fatal("told to go away before the drain")
	}
	m.Drain(ipc.ReasonRoll, 10*servetest.Timeout, 0)
	<-w.Draining()
	get()
	// Long before the last tenth: it is the GOAWAY that ends the connection.
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-ctx.Done():
		t.Fatal("the connection was not closed")
	}
	if c.Available() != 0 {
		t.Error("not told to go away")
	}
	m.WaitFor(ipc.Counters{Attached: true, Accepts: 1, Requests: 2})
}

func TestHTTP2(t *testing.T) {
	t.Parallel()
	server, client := config(t)
	goesAway(t, "https", &http.Server{TLSConfig: server}, &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: true})
}

func TestUnencryptedHTTP2(t *testing.T) {
	t.Parallel()
	var only http.Protocols
	only.SetUnencryptedHTTP2(true)
	goesAway(t, "http", &http.Server{Protocols: &only}, &http.Transport{Protocols: &only})
}

// A program may put TLS around the listener itself, and one server on several
// listeners: nothing is encrypted or counted twice, and the drain waits for all.
func TestOwnTLSAndTwoListeners(t *testing.T) {
	t.Parallel()
	server, client := config(t)
	m := servetest.NewMaster(t)
	w := m.Worker()
	srv := &http.Server{TLSConfig: server}
	srv.Handler = handler(t, w, servetest.App{})
	served := make(chan error, 2)
	clients := &http.Client{Transport: &http.Transport{TLSClientConfig: client}}
	for range 2 {
		ln, err := w.Listen("https", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if worker.Plain(tls.NewListener(ln, server)) || !worker.Plain(ln) {
			t.Error("TLS is taken for plain, or the other way round")
		}
		go func() { served <- httpserve.Serve(w, srv, tls.NewListener(ln, server)) }()
		r, err := clients.Get("https://" + ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		// Read to its end, or the client closes the connection with the body.
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
	}
	m.Expect(ipc.Ready{})
	m.WaitFor(ipc.Counters{Attached: true, Open: 2, Accepts: 2, Requests: 2})
	m.Drain(ipc.ReasonRoll, servetest.Timeout, 0)
	<-w.Draining()
	select {
	case err := <-served:
		t.Fatalf("Serve returned %v with a connection open", err)
	default:
	}
	clients.CloseIdleConnections()
	for range 2 {
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
	m.WaitFor(ipc.Counters{Attached: true, Accepts: 2, Requests: 2})
}
