// Package httpserve serves a net/http server as a worker of forkd.
//
// While the worker drains, every request on a kept connection is answered. So this
// package must not call the server's SetKeepAlivesEnabled, Shutdown or Close: each
// closes idle connections at once.
package httpserve

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"

	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/internal/serve"
)

// Serve serves srv on ln, says ready, and returns nil when the worker has drained; see
// [worker.Worker.Serve] for its errors. It wraps srv's Handler, ConnState and
// ConnContext: do not change them afterwards. One server may be served on several
// listeners.
//
// A server whose TLSConfig has certificates is served with TLS and HTTP/2, unless ln
// makes TLS connections already.
//
// Connections over the worker's limit (FORKD_MAX_CONNECTIONS) are refused, without a
// call of the handler: 503 with Connection: close and Retry-After: 1; a WebSocket is
// accepted and closed with 1013, try again later; a client that speaks nothing but
// HTTP/2 gets a GOAWAY. With TLS the answer comes after the handshake. Beyond 256 at
// a time they are closed unanswered.
func Serve(w *worker.Worker, srv *http.Server, ln net.Listener) error {
	w.Prepare(srv, func() {
		srv.Handler = handler(w, srv.Handler)
		srv.ConnState = connState(srv.ConnState)
		srv.ConnContext = connContext(srv.ConnContext)
	})
	return serve.Serve(w, srv, srv.TLSConfig, cmp.Or(srv.IdleTimeout, srv.ReadTimeout), ln)
}

// handler counts requests and closes connections by their response in a drain or a
// shed. In HTTP/2 net/http makes a GOAWAY of the header.
func handler(w *worker.Worker, next http.Handler) http.Handler {
	if next == nil {
		next = http.DefaultServeMux // as in http.Server
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		conn := func() net.Conn {
			c, _ := r.Context().Value(connKey{}).(net.Conn)
			return c
		}
		if r.ProtoMajor == 2 {
			worker.Multiplexed(conn())
		}
		if r.ContentLength > 0 {
			worker.Body(conn(), r.ContentLength)
		}
		last := w.RequestOn(conn)
		// A response that changes the protocol has its own Connection header.
		if last && r.Header.Get("Upgrade") == "" {
			rw.Header().Set("Connection", "close")
		}
		next.ServeHTTP(rw, r)
	})
}

// connKey is the key of the connection in the context of its requests.
type connKey struct{}

// connContext adds the connection to the context that the program's own function made.
func connContext(own func(context.Context, net.Conn) context.Context) func(context.Context, net.Conn) context.Context {
	return func(ctx context.Context, c net.Conn) context.Context {
		if own != nil {
			if ctx = own(ctx, c); ctx == nil {
				return nil // net/http panics with a message
			}
		}
		return context.WithValue(ctx, connKey{}, c)
	}
}

// connState marks connections and calls the program's own callback.
func connState(own func(net.Conn, http.ConnState)) func(net.Conn, http.ConnState) {
	return func(c net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			// In net/http a connection is active when the head of a request has been
			// read; here its first byte counts. With TLS that is the handshake's.
			if _, ok := c.(*tls.Conn); !ok {
				worker.Mark(c, worker.Expecting)
			}
		case http.StateActive:
			worker.Mark(c, worker.Busy)
		case http.StateIdle:
			worker.Mark(c, worker.Idle)
		case http.StateHijacked:
			worker.Mark(c, worker.Hijacked)
		case http.StateClosed:
		}
		if own != nil {
			own(c, s)
		}
	}
}
