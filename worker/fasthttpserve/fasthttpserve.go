// Package fasthttpserve serves a fasthttp server as a worker of forkd.
//
// While the worker drains, every request on a kept connection is answered. So this
// package must not call the server's Shutdown: it closes idle connections at once,
// waits forever for silent ones without a ReadTimeout, and leaves hijacked ones open.
package fasthttpserve

import (
	"cmp"
	"net"

	"github.com/valyala/fasthttp"

	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/internal/serve"
)

// Serve serves srv on ln, says ready, and returns nil when the worker has drained; see
// [worker.Worker.Serve] for its errors. It wraps srv's Handler and ConnState: do not
// change them afterwards. One server may be served on several listeners.
//
// A server whose TLSConfig has certificates is served with TLS, unless ln makes
// TLS connections already.
//
// Connections over the worker's limit (FORKD_MAX_CONNECTIONS) are refused, without a
// call of the handler: 503 with Connection: close and Retry-After: 1; a WebSocket is
// accepted and closed with 1013, try again later. With TLS the answer comes after the
// handshake. Beyond 256 at a time they are closed unanswered.
func Serve(w *worker.Worker, srv *fasthttp.Server, ln net.Listener) error {
	w.Prepare(srv, func() {
		srv.Handler = handler(w, srv.Handler)
		srv.ConnState = connState(srv.ConnState)
	})
	return serve.Serve(w, srv, srv.TLSConfig, cmp.Or(srv.IdleTimeout, srv.ReadTimeout), ln)
}

// handler counts requests and closes connections by their response in a drain or a
// shed. It decides after the program's handler, so that a request that was under way
// when the drain began closes too.
func handler(w *worker.Worker, next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		if n := ctx.Request.Header.ContentLength(); n > 0 {
			worker.Body(ctx.Conn(), int64(n))
		}
		next(ctx)
		switch {
		case ctx.Hijacked():
			// SetConnectionClose would drop the hijacker. ConnState is called too
			// late for this mark: the hijacker may have closed the connection by then.
			w.Request()
			worker.Mark(ctx.Conn(), worker.Hijacked)
		case w.RequestOn(ctx.Conn):
			closeAfter(ctx)
		}
	}
}

// closeAfter makes a response the last of its connection. After a timeout the response
// is another one, and the handler may still use ctx.
func closeAfter(ctx *fasthttp.RequestCtx) {
	if late := ctx.LastTimeoutErrorResponse(); late != nil {
		late.SetConnectionClose()
		return
	}
	ctx.SetConnectionClose()
}

// connState marks connections and calls the program's own callback. In fasthttp a
// connection is active when it begins to read the first request, later when the first
// byte of a request has come.
func connState(own func(net.Conn, fasthttp.ConnState)) func(net.Conn, fasthttp.ConnState) {
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
