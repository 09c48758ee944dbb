// Command worker is what the tests of the unit run under forkd: an HTTP server
// that answers with its pid, slot and generation, and misbehaves as it is told.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/httpserve"
)

// breed starts processes that outlive this one.
func breed() {
	for range time.Tick(200 * time.Millisecond) {
		if err := exec.Command("sleep", "98765").Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

func main() {
	gate := flag.String("gate", "", "do not get ready before this file is there")
	lame := flag.String("lame", "", "never get ready in this slot")
	fail := flag.Bool("fail", false, "end at once, with exit status 1")
	stubborn := flag.Bool("stubborn", false, "do not drain: ignore the signal and the master's end")
	breeds := flag.Bool("breed", false, "start a process every now and then, and leave it")
	flag.Parse()
	if *breeds {
		go breed()
	}
	switch {
	case *fail:
		fmt.Fprintln(os.Stderr, "worker: told to fail")
		os.Exit(1)
	case *lame != "" && *lame == os.Getenv("FORKD_SLOT"):
		select {}
	case *stubborn:
		orDie(stay())
		return
	}
	for deadline := time.Now().Add(time.Minute); *gate != "" && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(*gate); err == nil {
			break
		}
	}
	w := worker.New()
	ln, err := w.Listen("http", "127.0.0.1:0")
	orDie(err)
	orDie(httpserve.Serve(w, &http.Server{Handler: answers(), ReadHeaderTimeout: 10 * time.Second}, ln))
}

// stay serves for good, by the plain means of sd_listen_fds(3) and sd_notify(3).
func stay() error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	ln, err := net.FileListener(os.NewFile(3, "http"))
	if err != nil {
		return err
	}
	notify, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"})
	if err != nil {
		return err
	}
	if _, err := notify.Write([]byte("READY=1")); err != nil {
		return err
	}
	server := http.Server{Handler: answers(), ReadHeaderTimeout: 10 * time.Second}
	return server.Serve(ln)
}

func answers() *http.ServeMux {
	answer := func(rw http.ResponseWriter) {
		fmt.Fprintf(rw, "%d slot=%s generation=%s\n", os.Getpid(), os.Getenv("FORKD_SLOT"), os.Getenv("FORKD_GENERATION"))
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
	return mux
}

func orDie(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}
