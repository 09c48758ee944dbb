package main

import (
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/httpserve"
)

// workerHTTP is a well-behaved worker: GET / answers with its pid, its slot and
// its generation, GET /slow after the time in ?for=.
func workerHTTP() {
	err := func() error {
		slot, generation := os.Getenv("FORKD_SLOT"), os.Getenv("FORKD_GENERATION")
		w := worker.New()
		ln, err := w.Listen("http", "127.0.0.1:0")
		if err != nil {
			return err
		}
		answer := func(rw http.ResponseWriter) {
			fmt.Fprintf(rw, "%d slot=%s generation=%s\n", os.Getpid(), slot, generation)
		}
		mux := http.NewServeMux()
		mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) { answer(rw) })
		mux.HandleFunc("GET /slow", func(rw http.ResponseWriter, r *http.Request) {
			d, err := time.ParseDuration(r.FormValue("for"))
			if err != nil {
				http.Error(rw, err.Error(), http.StatusBadRequest)
				return
			}
			time.Sleep(d)
			answer(rw)
		})
		return httpserve.Serve(w, &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}, ln)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker-http:", err)
		os.Exit(1)
	}
}
