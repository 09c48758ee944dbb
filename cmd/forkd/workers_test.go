package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/httpserve"
)

// workerHTTP is a well-behaved worker: GET / answers with its pid, its slot and
// its generation, GET /slow after the time in ?for=, or when the file ?until= is
// there; it makes the file ?began= first. /echo is a WebSocket.
func workerHTTP() {
	w := worker.New()
	ln, err := w.Listen("http", "127.0.0.1:0")
	orDie(err)
	orDie(httpserve.Serve(w, &http.Server{Handler: answers(), ReadHeaderTimeout: scriptTimeout}, ln))
}

// workerAll is workerHTTP on every socket that it was passed.
func workerAll() {
	names := strings.Split(os.Getenv(ipc.EnvListenFDNames), ":") // before New takes it away
	w := worker.New()
	var servers sync.WaitGroup
	for _, name := range names {
		ln, err := w.Listen(name, "")
		orDie(err)
		servers.Go(func() {
			orDie(httpserve.Serve(w, &http.Server{Handler: answers(), ReadHeaderTimeout: scriptTimeout}, ln))
		})
	}
	servers.Wait()
}

// answers is what every worker that speaks HTTP says.
func answers() *http.ServeMux {
	answer := func(rw http.ResponseWriter) {
		fmt.Fprintf(rw, "%d slot=%s generation=%s\n", os.Getpid(), os.Getenv(ipc.EnvSlot), os.Getenv(ipc.EnvGeneration))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) { answer(rw) })
	mux.HandleFunc("GET /echo", echo)
	mux.HandleFunc("GET /slow", func(rw http.ResponseWriter, r *http.Request) {
		if path := r.FormValue("began"); path != "" {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				http.Error(rw, err.Error(), http.StatusInternalServerError)
				return
			}
		}
		if path := r.FormValue("until"); path != "" {
			for _, err := os.Stat(path); err != nil; _, err = os.Stat(path) {
				time.Sleep(10 * time.Millisecond)
			}
			answer(rw)
			return
		}
		d, err := time.ParseDuration(r.FormValue("for"))
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		time.Sleep(d)
		answer(rw)
	})
	return mux
}

// orDie ends a helper that can't play its part.
func orDie(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(1)
	}
}

// forGood waits for the end, which comes by a signal.
func forGood() {
	for {
		_ = unix.Pause() // EINTR, after signals that the runtime takes
	}
}
