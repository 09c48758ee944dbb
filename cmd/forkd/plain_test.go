package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// workerPlain is a server that knows nothing of forkd. Its arguments are done in order:
//
//	tcp:ADDR, tcp4:, tcp6:, unix:PATH  listens there
//	wait:FILE                          waits until the file is there
//	fail:TEXT                          prints the text and ends with status 1
//	ignore:TERM                        does not end by SIGTERM
//
// GET / answers with its pid, uid and generation; /listen?at=ADDR listens there too;
// /dial?from=ADDR&to=ADDR connects from a port that it has named. It prints what it does.
func workerPlain() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(rw, "pid %d uid %d generation %s\n", os.Getpid(), os.Getuid(), os.Getenv("FORKD_GENERATION"))
	})
	mux.HandleFunc("GET /listen", func(rw http.ResponseWriter, r *http.Request) {
		_, err := net.Listen("tcp4", r.FormValue("at"))
		fmt.Fprintf(rw, "listen: %v\n", err)
	})
	mux.HandleFunc("GET /dial", func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(rw, "dial:", dialFrom(r.FormValue("from"), r.FormValue("to")))
	})
	server := http.Server{Handler: mux, ReadHeaderTimeout: scriptTimeout}
	server.SetKeepAlivesEnabled(false) // it would cut idle connections at its end
	var serving, open sync.WaitGroup
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Done()
		case http.StateActive, http.StateIdle:
		}
	}
	var listeners []net.Listener
	for _, arg := range os.Args[1:] {
		what, of, _ := strings.Cut(arg, ":")
		switch what {
		case "wait":
			fmt.Println("waiting for", of)
			for _, err := os.Stat(of); err != nil; _, err = os.Stat(of) {
				time.Sleep(10 * time.Millisecond)
			}
		case "fail":
			orDie(errors.New(of))
		case "ignore":
			signal.Stop(term)
			signal.Ignore(syscall.SIGTERM)
		default:
			ln, err := net.Listen(what, of)
			orDie(err)
			fmt.Println("serving", ln.Addr())
			listeners = append(listeners, ln)
			serving.Go(func() { _ = server.Serve(ln) })
		}
	}
	<-term
	for _, ln := range listeners { // Shutdown would cut connections that it has accepted
		_ = ln.Close()
	}
	serving.Wait()
	open.Wait()
}

// dialFrom connects from an address, as a program that binds to connect.
func dialFrom(from, to string) string {
	local, err := net.ResolveTCPAddr("tcp4", from)
	if err != nil {
		return err.Error()
	}
	conn, err := (&net.Dialer{LocalAddr: local, Timeout: scriptTimeout}).Dial("tcp4", to)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	return "from " + conn.LocalAddr().String()
}

// workerBinds binds a port, waits for a file, and listens. It does not end by SIGTERM, so
// that what it gets from bind(2) and listen(2) can be seen.
func workerBinds() {
	signal.Ignore(syscall.SIGTERM)
	port, err := strconv.Atoi(os.Args[1])
	orDie(err)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	orDie(err)
	say := func(err error) {
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	fmt.Println("binding")
	say(unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}))
	fmt.Println("bound")
	for _, err := os.Stat(os.Args[2]); err != nil; _, err = os.Stat(os.Args[2]) {
		time.Sleep(10 * time.Millisecond)
	}
	say(unix.Listen(fd, 8))
	fmt.Println("listening")
	_, _, err = unix.Accept(fd)
	say(err)
}

// withoutSeccomp runs a command under a filter that refuses seccomp(2), as profiles of
// containers do.
func withoutSeccomp() {
	runtime.LockOSThread()
	path, err := exec.LookPath(os.Args[1])
	orDie(err)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SECCOMP, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	orDie(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	orDie(unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0))
	orDie(unix.Exec(path, os.Args[1:], os.Environ()))
}
