// Package httpserve serves a net/http server as a worker of forkd.
//
// It keeps one invariant: while the worker drains, no request of a client that
// keeps its connection goes unanswered. It must not call the server's
// SetKeepAlivesEnabled, Shutdown or Close: each closes idle connections at once.
package httpserve

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"

	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/internal/refusal"
)

// Serve serves srv on ln, says ready, and when the worker is to drain finishes
// and returns nil; see [worker.Worker.Serve] for its errors. It puts itself
// around srv's Handler, ConnState and ConnContext: do not change them afterwards. One server
// may be served on several listeners.
//
// A server whose TLSConfig has certificates is served with TLS, and HTTP/2,
// unless ln makes TLS connections already.
//
// What comes while the worker has as many connections as it may have
// (FORKD_MAX_CONNECTIONS) is turned away, without a call of the handler: 503 with
// Connection: close and Retry-After: 1; a WebSocket's handshake is completed, and
// closed with 1013, try again later. A client of TLS gets that within TLS. One of
// HTTP/2 is offered HTTP/1.1 first; where it insists, it gets a GOAWAY. Beyond 256
// at a time they are closed unanswered.
func Serve(w *worker.Worker, srv *http.Server, ln net.Listener) error {
	w.Prepare(srv, func() {
		srv.Handler = handler{w, srv.Handler}
		srv.ConnState = hook(srv.ConnState)
		srv.ConnContext = know(srv.ConnContext)
	})
	worker.AwaitData(ln)
	encrypt := worker.Plain(ln) && hasCertificates(srv.TLSConfig)
	var config *tls.Config
	if encrypt {
		config = refusal.TLS(srv.TLSConfig)
	}
	refuse := func(c net.Conn) { refusal.Answer(c, config) }
	return w.Serve(ln, func(ln net.Listener) error {
		worker.Refuse(ln, refuse)
		if encrypt {
			return srv.ServeTLS(ln, "", "")
		}
		return srv.Serve(ln)
	})
}

func hasCertificates(c *tls.Config) bool {
	return c != nil && (len(c.Certificates) > 0 || c.GetCertificate != nil || c.GetConfigForClient != nil)
}

// handler counts requests and lets the responses of a draining worker, or on a
// connection that is shed, close their connection; of this header net/http makes a GOAWAY in HTTP/2.
type handler struct {
	worker *worker.Worker
	next   http.Handler // nil: http.DefaultServeMux, as in http.Server
}

func (h handler) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	conn := func() net.Conn {
		c, _ := r.Context().Value(connKey{}).(net.Conn)
		return c
	}
	if r.ProtoMajor == 2 {
		worker.Multiplexed(conn())
	}
	last := h.worker.RequestOn(conn)
	// A response that changes the protocol has its own Connection header.
	if last && r.Header.Get("Upgrade") == "" {
		rw.Header().Set("Connection", "close")
	}
	next := h.next
	if next == nil {
		next = http.DefaultServeMux
	}
	next.ServeHTTP(rw, r)
}

// connKey is the key of the connection in the context of its requests.
type connKey struct{}

// know puts the connection into the context that the program's own function made.
func know(own func(context.Context, net.Conn) context.Context) func(context.Context, net.Conn) context.Context {
	return func(ctx context.Context, c net.Conn) context.Context {
		if own != nil {
			if ctx = own(ctx, c); ctx == nil {
				return nil // net/http has a word for that
			}
		}
		return context.WithValue(ctx, connKey{}, c)
	}
}

// hook marks connections and calls the program's own hook.
func hook(own func(net.Conn, http.ConnState)) func(net.Conn, http.ConnState) {
	return func(c net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			// net/http calls a connection active when it has read the headers of
			// a request; the first byte counts. Of TLS it belongs to the handshake.
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
