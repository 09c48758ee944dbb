// Command peer is what forkd is measured against: fasthttp's own prefork, in
// its fastest mode, with the handler of examples/fasthttp. It must do what that
// program does and no less: the benchmark compares their answers first.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/prefork"
)

func main() {
	address := flag.String("listen", ":8080", "serve on `ADDRESS`, one process per core")
	flag.Parse()
	hello := fmt.Appendf(nil, "%d says hello\n", os.Getpid())
	pre := prefork.New(&fasthttp.Server{
		Name: "forkd",
		Handler: func(ctx *fasthttp.RequestCtx) {
			if string(ctx.Path()) != "/" {
				ctx.Error("not found", fasthttp.StatusNotFound)
				return
			}
			ctx.SetBody(hello)
		},
	})
	pre.Reuseport = true
	pre.OnMasterDeath = func() { os.Exit(1) }
	log.Fatal(pre.ListenAndServe(*address))
}
