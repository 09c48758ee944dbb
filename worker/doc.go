// Package worker is what a Go program imports to be a worker of forkd: it finds
// the sockets that the master passed, says when it is ready, counts connections
// and requests where the master reads them, and drains without losing a request.
// Without a master the same program runs alone.
//
//	w := worker.New()
//	ln, err := w.Listen("http", ":8080")
//	...
//	err = httpserve.Serve(w, &http.Server{Handler: h}, ln)
//
// Workers of one app may talk: what one gives to [Worker.Send] goes, through the
// master, to every other worker that has a channel, and arrives in their
// [Worker.Messages], as does what `forkd send` sends. A message is any JSON value
// of up to 1 MiB. It is for news (a cache to drop, a level to log at), not for
// state: one that starts later has missed it, and one that does not read loses
// what comes meanwhile.
//
// It keeps one invariant: a connection that was accepted here is in exactly one
// listener's set, and in the page's count of open connections, until it is
// really closed; hijacked ones too. (One that is turned away, see [Refuse], is in
// the set and not in the count.) That set is what a drain waits for, never a
// server's own idea of what is open.
//
// It sheds connections when the master asks for it: the longest-lived ones, their
// owner told first, with the means of a drain. See [Worker.OnShed].
//
// It must not import a server (those live in httpserve and fasthttpserve), take
// a lock or allocate per request, or call a server's own Shutdown: that closes
// idle connections at once, in the face of the client's next request.
package worker
