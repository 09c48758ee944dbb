package httpserve_test

import (
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/httpserve"
	"github.com/forkd/forkd/worker/internal/servetest"
)

// handler serves servetest.App.
func handler(t *testing.T, w *worker.Worker, app servetest.App) http.Handler {
	hijack := func(rw http.ResponseWriter) net.Conn {
		c, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			panic(http.ErrAbortHandler)
		}
		app.Entered <- struct{}{}
		return c
	}
	big := make([]byte, servetest.BigSize)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "ok") })
	mux.HandleFunc("/big", func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(big) })
	mux.HandleFunc("/slow", func(rw http.ResponseWriter, _ *http.Request) {
		app.Entered <- struct{}{}
		<-app.Release
		_, _ = io.WriteString(rw, "ok")
	})
	mux.HandleFunc("/hijack", func(rw http.ResponseWriter, _ *http.Request) {
		c := hijack(rw)
		defer c.Close()
		_, _ = io.Copy(c, c)
	})
	mux.HandleFunc("/hijack/told", func(rw http.ResponseWriter, _ *http.Request) {
		c := hijack(rw)
		defer c.Close()
		<-w.Draining()
	})
	return mux
}

func TestServe(t *testing.T) {
	servetest.Run(t, func(w *worker.Worker, ln net.Listener, app servetest.App) error {
		return httpserve.Serve(w, &http.Server{Handler: handler(t, w, app)}, ln)
	})
}
