// Command forkd runs a server on every core, on sockets that outlive its
// workers, and talks to the masters that do.
//
// `forkd run` is a master, in the foreground; every other command is a client
// of the control sockets, and has no state. What a command prints and how it
// exits is fixed in docs/contract.md, Command line. Nothing here decides how an
// app behaves: that is package supervisor's.
package main

import (
	"context"
	"os"
	"runtime"
	"slices"
)

// The main thread starts every worker: their parent-death signal is bound to
// the thread that forked (prctl(2), PR_SET_PDEATHSIG), and only this one lives
// as long as the process. To commands that start none it would only be dear.
func init() { //nolint:gochecknoinits // later may be on another thread
	if slices.Contains(os.Args, "run") {
		runtime.LockOSThread()
	}
}

func main() {
	os.Exit(run(context.Background(), os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}
