// Package worker is what a Go program imports to be a worker of forkd: it finds the
// sockets that the master passed, says when it is ready, counts connections and
// requests on the counters page, and drains without losing a request. Without a
// master the same program runs alone.
//
//	w := worker.New()
//	ln, err := w.Listen("http", ":8080")
//	...
//	err = httpserve.Serve(w, &http.Server{Handler: h}, ln)
//
// Workers of one app exchange messages by [Worker.Send] and [Worker.Messages]: any
// JSON value of up to 1 MiB. Messages are for news (drop a cache, change the log
// level), not for state: a worker that starts later, or reads too slowly, misses them.
//
// In a roll idle connections move to the next worker: see [Movable] for those of HTTP/1.1,
// which httpserve and fasthttpserve serve, and [Worker.Handoff] for others.
//
// Every connection is in the list of exactly one listener, and in the page's count of
// open connections, until its socket is closed, hijacked ones too. (Refused ones are
// not counted, see [Refuse].) A drain waits for these lists, never for a server's own
// count.
//
// The package must not import a server (httpserve and fasthttpserve do), lock or
// allocate per request, or call a server's Shutdown: that closes idle connections at
// once, in the face of the next request.
package worker
