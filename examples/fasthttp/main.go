// Command fasthttp is a fasthttp server that forkd can run. Its answer begins
// with the pid of the worker that gave it.
//
// Under forkd, one worker per processor on port 8080:
//
//	go build -o fasthttp ./examples/fasthttp
//	forkd run --listen 8080 -- ./fasthttp
//
// Alone, on the same port:
//
//	./fasthttp
package main

import (
	"fmt"
	"os"

	"github.com/valyala/fasthttp"

	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/fasthttpserve"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "fasthttp:", err)
		os.Exit(1)
	}
}

func run() error {
	w := worker.New()
	ln, err := w.Listen("http", ":8080")
	if err != nil {
		return err
	}
	hello := fmt.Appendf(nil, "%d says hello\n", os.Getpid())
	return fasthttpserve.Serve(w, &fasthttp.Server{
		Name: "forkd",
		Handler: func(ctx *fasthttp.RequestCtx) {
			if string(ctx.Path()) != "/" {
				ctx.Error("not found", fasthttp.StatusNotFound)
				return
			}
			ctx.SetBody(hello)
		},
	}, ln)
}
