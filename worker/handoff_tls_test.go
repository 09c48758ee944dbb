package worker_test

import (
	"bufio"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/fasthttpserve"
	"github.com/forkd/forkd/worker/httpserve"
)

// A connection whose TLS ends in the worker stays when it is idle, as its keys can't be
// handed over. It is answered once more, and told to close.
func TestTLSStays(t *testing.T) {
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS()
	defer certified.Close()
	server := &tls.Config{Certificates: certified.TLS.Certificates}
	client := certified.Client().Transport.(*http.Transport).TLSClientConfig
	client.ServerName = "example.com"

	all := map[string]func(w *worker.Worker, ln net.Listener) error{
		"net/http, TLSConfig": func(w *worker.Worker, ln net.Listener) error {
			return httpserve.Serve(w, &http.Server{Handler: http.HandlerFunc(app), TLSConfig: server}, ln)
		},
		"fasthttp, TLSConfig": func(w *worker.Worker, ln net.Listener) error {
			return fasthttpserve.Serve(w, &fasthttp.Server{Handler: func(*fasthttp.RequestCtx) {}, TLSConfig: server}, ln)
		},
	}
	for name, serve := range servers() {
		all[name+", tls.NewListener"] = func(w *worker.Worker, ln net.Listener) error { return serve(w, tls.NewListener(ln, server)) }
	}
	for name, serve := range all {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, serve)
			c, err := tls.Dial("tcp", s.addr, client)
			check(t, err)
			defer c.Close()
			check(t, c.SetDeadline(time.Now().Add(enough)))
			in := bufio.NewReader(c)
			send(t, c, get)
			response(t, in)
			before := s.roll()
			waitFor(t, "idle connections of the predecessor move", func() bool { return ended(before.Successor()) })
			<-before.Draining()
			send(t, c, get)
			if !response(t, in) {
				t.Error("not told to close")
			}
			s.ended(before)
			if n := before.Counters(); n.Requests != 2 || n.MovedOut != 0 {
				t.Errorf("counted %+v", n)
			}
		})
	}
}
