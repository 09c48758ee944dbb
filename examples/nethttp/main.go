// Command nethttp is a net/http server that forkd can run. Its answer begins
// with the pid of the worker that gave it.
//
// Under forkd, one worker per processor on port 8080:
//
//	go build -o nethttp ./examples/nethttp
//	forkd run --listen 8080 -- ./nethttp
//
// Alone, on the same port:
//
//	./nethttp
package main

import (
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/httpserve"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "nethttp:", err)
		os.Exit(1)
	}
}

func run() error {
	w := worker.New()
	ln, err := w.Listen("http", ":8080")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(rw, "%d says hello\n", os.Getpid())
	})
	return httpserve.Serve(w, &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}, ln)
}
