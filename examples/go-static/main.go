// Command go-static is a net/http server that knows nothing of forkd. Its answer
// begins with the pid of the worker that gave it.
//
//	CGO_ENABLED=0 go build -o go-static ./examples/go-static
//	forkd run -- ./go-static 127.0.0.1:8000
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: go-static ADDRESS")
	}
	server := &http.Server{
		Addr:              os.Args[1],
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "%d says hello\n", os.Getpid())
		}),
	}
	log.Fatal(server.ListenAndServe())
}
