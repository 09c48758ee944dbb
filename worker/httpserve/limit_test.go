package httpserve_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/httpserve"
	"github.com/forkd/forkd/worker/internal/servetest"
)

// full is a worker that may have one connection and has it.
func full(t *testing.T, scheme string, srv *http.Server, client *http.Transport, around func(net.Listener) net.Listener) (m *servetest.Master, addr string) {
	t.Helper()
	m = servetest.NewMaster(t)
	m.MaxConnections = 1
	w := m.Worker()
	ln, err := w.Listen("http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = ln.Addr().String()
	srv.Handler = handler(t, w, servetest.App{})
	go func() { _ = httpserve.Serve(w, srv, around(ln)) }()
	m.Expect(ipc.Ready{})
	res, err := (&http.Client{Transport: client, Timeout: servetest.Timeout}).Get(scheme + "://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	m.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 1, Requests: 1})
	t.Cleanup(func() { client.CloseIdleConnections() })
	return m, addr
}

func asItIs(ln net.Listener) net.Listener { return ln }

// A TLS client is refused within TLS, in HTTP/1.1 if it can; one that speaks HTTP/2
// only gets a GOAWAY. The same if the program wraps the listener with TLS itself.
func TestLimitOfTLS(t *testing.T) {
	for name, own := range map[string]bool{"the server's": false, "the program's": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, client := config(t)
			around := asItIs
			if own {
				server.NextProtos = []string{"http/1.1", "h2"}
				around = func(ln net.Listener) net.Listener { return tls.NewListener(ln, server) }
			}
			first := &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: true}
			m, addr := full(t, "https", &http.Server{TLSConfig: server}, first, around)

			both := client.Clone()
			both.NextProtos = []string{"h2", "http/1.1"}
			c, err := tls.Dial("tcp", addr, both)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(servetest.Timeout)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReader(c)
			servetest.Refused(t, in)
			if _, err := in.ReadByte(); err != io.EOF {
				t.Errorf("after the answer: %v", err)
			}
			m.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Requests: 1, Refused: 1})

			only := client.Clone()
			only.NextProtos = []string{"h2"}
			toldToGo(t, "https", addr, &http.Transport{TLSClientConfig: only, Protocols: protocols(false)})
			m.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 3, Requests: 1, Refused: 2})

			first.CloseIdleConnections()
			m.WaitFor(ipc.Counters{Attached: true, Accepts: 3, Requests: 1, Refused: 2})
			res, err := (&http.Client{Transport: first, Timeout: servetest.Timeout}).Get("https://" + addr)
			if err != nil || res.StatusCode != http.StatusOK {
				t.Fatalf("when there is room again: %v, %v", res, err)
			}
			res.Body.Close()
		})
	}
}

func protocols(unencrypted bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP2(!unencrypted)
	p.SetUnencryptedHTTP2(unencrypted)
	return p
}

// toldToGo checks that a client of HTTP/2 gets a GOAWAY. One that comes while the
// client still sets the connection up it tells in words of its own.
func toldToGo(t *testing.T, scheme, addr string, client *http.Transport) {
	t.Helper()
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), servetest.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	// A transport would try a request that was not taken again, on another connection.
	var res *http.Response
	c, err := client.NewClientConn(ctx, scheme, addr)
	if err == nil {
		defer c.Close()
		res, err = c.RoundTrip(r)
	}
	if err == nil || !strings.Contains(err.Error(), "ENHANCE_YOUR_CALM") && !strings.Contains(err.Error(), "could not be established") {
		t.Errorf("got %v, %v", res, err)
	}
}

func TestLimitOfUnencryptedHTTP2(t *testing.T) {
	t.Parallel()
	first := &http.Transport{Protocols: protocols(true)}
	m, addr := full(t, "http", &http.Server{Protocols: protocols(true)}, first, asItIs)
	toldToGo(t, "http", addr, &http.Transport{Protocols: protocols(true)})
	m.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Requests: 1, Refused: 1})
}

// The limit is one for all listeners of a worker, and one server may start on two
// at a time.
func TestLimitOfTwoListeners(t *testing.T) {
	t.Parallel()
	server, client := config(t)
	m := servetest.NewMaster(t)
	m.MaxConnections = 1
	w := m.Worker()
	srv := &http.Server{TLSConfig: server}
	srv.Handler = handler(t, w, servetest.App{})
	var addrs []string
	for range 2 {
		ln, err := w.Listen("https", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, ln.Addr().String())
		go func() { _ = httpserve.Serve(w, srv, ln) }()
	}
	m.Expect(ipc.Ready{})
	status := func(addr string) int {
		t.Helper()
		transport := &http.Transport{TLSClientConfig: client.Clone()}
		t.Cleanup(transport.CloseIdleConnections)
		res, err := (&http.Client{Transport: transport, Timeout: servetest.Timeout}).Get("https://" + addr)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
	if got := status(addrs[0]); got != http.StatusOK {
		t.Errorf("the first is answered %d", got)
	}
	if got := status(addrs[1]); got != http.StatusServiceUnavailable {
		t.Errorf("the second is answered %d", got)
	}
	m.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Requests: 1, Refused: 1})
}

// A listener that is not served by a serve package, and a worker without a limit,
// refuse nothing.
func TestNoLimit(t *testing.T) {
	t.Parallel()
	m := servetest.NewMaster(t)
	m.MaxConnections = 1
	ln, err := m.Worker().Listen("raw", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for range 3 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		accepted, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
	}
	m.WaitFor(ipc.Counters{Attached: true, Open: 3, Accepts: 3})

	unlimited := servetest.NewMaster(t)
	w := unlimited.Worker()
	other, err := w.Listen("raw", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	worker.Refuse(other, func(net.Conn) { t.Error("refused") })
	c, err := net.Dial("tcp", other.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := other.Accept(); err != nil {
		t.Error(err)
	}
	unlimited.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 1})
}
