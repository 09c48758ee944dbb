package fasthttpserve_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/fasthttpserve"
	"github.com/forkd/forkd/worker/internal/servetest"
)

// handler serves servetest.App.
func handler(w *worker.Worker, app servetest.App) fasthttp.RequestHandler {
	echo := func(c net.Conn) {
		app.Entered <- struct{}{}
		_, _ = io.Copy(c, c)
	}
	told := func(net.Conn) {
		app.Entered <- struct{}{}
		<-w.Draining()
	}
	hijack := func(ctx *fasthttp.RequestCtx, f fasthttp.HijackHandler) {
		ctx.HijackSetNoResponse(true)
		ctx.Hijack(f)
	}
	big := make([]byte, servetest.BigSize)
	return func(ctx *fasthttp.RequestCtx) {
		switch string(ctx.Path()) {
		case "/big":
			ctx.SetBody(big)
		case "/hijack":
			hijack(ctx, echo)
		case "/hijack/told":
			hijack(ctx, told)
		case "/slow":
			app.Entered <- struct{}{}
			<-app.Release
			ctx.SetBodyString("ok")
		default:
			ctx.SetBodyString("ok")
		}
	}
}

func TestServe(t *testing.T) {
	for name, change := range map[string]func(*fasthttp.Server){
		"plain":            func(*fasthttp.Server) {},
		"reduced memory":   func(s *fasthttp.Server) { s.ReduceMemoryUsage = true },
		"counted per host": func(s *fasthttp.Server) { s.MaxConnsPerIP = 1000 },
	} {
		t.Run(name, func(t *testing.T) {
			servetest.Run(t, func(w *worker.Worker, ln net.Listener, app servetest.App) error {
				srv := &fasthttp.Server{Handler: handler(w, app), Logger: discard{}}
				change(srv)
				return fasthttpserve.Serve(w, srv, ln)
			})
		})
	}
}

// A connection that is hijacked during a drain stays with the hijacker: closing after
// the response would drop it.
func TestHijackDuringDrain(t *testing.T) {
	t.Parallel()
	m := servetest.NewMaster(t)
	w := m.Worker()
	ln, err := w.Listen("http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.SetStatusCode(fasthttp.StatusSwitchingProtocols)
		ctx.Hijack(func(c net.Conn) { _, _ = io.WriteString(c, "taken over") })
	}}
	served := make(chan error, 1)
	go func() { served <- fasthttpserve.Serve(w, srv, ln) }()
	m.Expect(ipc.Ready{})
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 1})
	m.Drain(ipc.ReasonRoll, servetest.Timeout, 0)
	<-w.Draining()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(all), "taken over") {
		t.Errorf("read %q, %v", all, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A TLS client is refused within TLS.
func TestLimitOfTLS(t *testing.T) {
	t.Parallel()
	https := httptest.NewUnstartedServer(nil)
	https.StartTLS()
	defer https.Close()
	m := servetest.NewMaster(t)
	m.MaxConnections = 1
	w := m.Worker()
	ln, err := w.Listen("https", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &fasthttp.Server{
		Handler:   func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString("ok") },
		TLSConfig: &tls.Config{Certificates: https.TLS.Certificates},
		Logger:    discard{},
	}
	go func() { _ = fasthttpserve.Serve(w, srv, ln) }()
	m.Expect(ipc.Ready{})
	ask := func() (*tls.Conn, *bufio.Reader) {
		t.Helper()
		client := https.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		client.ServerName, client.NextProtos = "example.com", []string{"h2", "http/1.1"}
		c, err := tls.Dial("tcp", ln.Addr().String(), client)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(servetest.Timeout)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return c, bufio.NewReader(c)
	}
	served := func(in *bufio.Reader) {
		t.Helper()
		r, err := http.ReadResponse(in, nil)
		if err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", r, err)
		}
		r.Body.Close()
	}
	first, in := ask()
	served(in)
	_, in = ask()
	servetest.Refused(t, in)
	m.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 2, Requests: 1, Refused: 1})
	first.Close()
	m.WaitFor(ipc.Counters{Attached: true, Accepts: 2, Requests: 1, Refused: 1})
	_, in = ask()
	served(in)
}

// discard discards the errors of connections that a test cuts.
type discard struct{}

func (discard) Printf(string, ...any) {}
