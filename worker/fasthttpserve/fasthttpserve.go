// Package fasthttpserve serves a fasthttp server as a worker of forkd.
//
// It keeps one invariant: while the worker drains, no request of a client that
// keeps its connection goes unanswered. It must not call the server's Shutdown,
// which closes idle connections at once, waits without end for silent ones where
// there is no ReadTimeout, and leaves hijacked ones open.
package fasthttpserve

import (
	"crypto/tls"
	"net"

	"github.com/valyala/fasthttp"

	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/internal/refusal"
)

// Serve serves srv on ln, says ready, and when the worker is to drain finishes
// and returns nil; see [worker.Worker.Serve] for its errors. It puts itself
// around srv's Handler and ConnState: do not change them afterwards. One server
// may be served on several listeners.
//
// A server whose TLSConfig has certificates is served with TLS, unless ln makes
// TLS connections already.
//
// What comes while the worker has as many connections as it may have
// (FORKD_MAX_CONNECTIONS) is turned away, without a call of the handler: 503 with
// Connection: close and Retry-After: 1; a WebSocket's handshake is completed, and
// closed with 1013, try again later. A client of TLS gets that within TLS. Beyond
// 256 at a time they are closed unanswered.
func Serve(w *worker.Worker, srv *fasthttp.Server, ln net.Listener) error {
	w.Prepare(srv, func() {
		srv.Handler = handler(w, srv.Handler)
		srv.ConnState = hook(srv.ConnState)
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
	return c != nil && (len(c.Certificates) > 0 || c.GetCertificate != nil)
}

// handler counts requests and lets the responses of a draining worker, or on a
// connection that is shed, close their connection. It does so after the program's handler, so that a request
// that was under way when the drain began closes too.
func handler(w *worker.Worker, next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		next(ctx)
		switch {
		case ctx.Hijacked():
			// Closing it would drop the hijacker. The hook comes too late for
			// this mark: the hijacker may have closed the connection by then.
			w.Request()
			worker.Mark(ctx.Conn(), worker.Hijacked)
		case w.RequestOn(ctx.Conn):
			closeAfter(ctx)
		}
	}
}

// closeAfter makes a response the last of its connection. After a time-out the
// response is another's, and ctx may still be in use by the handler.
func closeAfter(ctx *fasthttp.RequestCtx) {
	if late := ctx.LastTimeoutErrorResponse(); late != nil {
		late.SetConnectionClose()
		return
	}
	ctx.SetConnectionClose()
}

// hook marks connections and calls the program's own hook. fasthttp calls a
// connection active when it begins to read the first request, and for later ones
// when their first byte is there.
func hook(own func(net.Conn, fasthttp.ConnState)) func(net.Conn, fasthttp.ConnState) {
	return func(c net.Conn, s fasthttp.ConnState) {
		switch s {
		case fasthttp.StateActive:
			worker.Mark(c, worker.Expecting)
		case fasthttp.StateIdle:
			worker.Mark(c, worker.Idle)
		case fasthttp.StateNew, fasthttp.StateHijacked, fasthttp.StateClosed:
		}
		if own != nil {
			own(c, s)
		}
	}
}
