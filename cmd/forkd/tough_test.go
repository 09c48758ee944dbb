package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

// These workers know nothing of package worker: they have what any program has.

// notifyReady is sd_notify(3) with READY=1.
func notifyReady() {
	conn, err := net.Dial("unixgram", os.Getenv(ipc.EnvNotifySocket))
	orDie(err)
	defer conn.Close()
	_, err = io.WriteString(conn, "READY=1")
	orDie(err)
}

// inherit is the first passed socket, as every language opens it.
func inherit() (socket int, ln net.Listener) {
	file := os.NewFile(ipc.FirstFD, "listener")
	ln, err := net.FileListener(file)
	orDie(err)
	return int(file.Fd()), ln
}

// tenacious accepts on, whatever happens to its socket.
type tenacious struct{ net.Listener }

func (l tenacious) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err == nil {
			return conn, nil
		}
		_, _ = unix.Poll(nil, 10)
	}
}

// workerTough serves HTTP until it is killed by a signal. On SIGUSR1 it does to
// its socket what its argument says, and stays.
func workerTough() {
	socket, ln := inherit()
	ordered := make(chan os.Signal, 1)
	signal.Notify(ordered, syscall.SIGUSR1)
	go func() {
		for range ordered {
			switch os.Args[1] {
			case "shutdown":
				orDie(unix.Shutdown(socket, unix.SHUT_RDWR))
			case "backlog":
				orDie(unix.Listen(socket, 1))
			case "lock":
				orDie(unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1))
			case "close":
				orDie(ln.Close())
				orDie(unix.Close(socket))
			}
			fmt.Println("did", os.Args[1])
		}
	}()
	notifyReady()
	server := http.Server{Handler: answers(), ReadHeaderTimeout: scriptTimeout}
	_ = server.Serve(tenacious{ln})
	forGood()
}

// workerStubborn ignores SIGTERM, as does its child. GET /slow is answered late.
func workerStubborn() {
	signal.Ignore(syscall.SIGTERM)
	orDie(exec.Command("sleep", "1000").Start())
	_, ln := inherit()
	notifyReady()
	server := http.Server{Handler: answers(), ReadHeaderTimeout: scriptTimeout}
	_ = server.Serve(ln)
}

// workerFamily starts a child, of the kind that its argument names, and is
// workerHTTP then.
func workerFamily() {
	child := exec.Command("sh", "-c", map[string]string{
		"stays": `trap 'echo $$ got TERM' TERM; echo child $$; while :; do sleep 1; done`,
		"moves": `trap '' TERM; echo child $$; while :; do sleep 1; done`,
		"fails": `exit 3`, // and nobody waits for it
	}[os.Args[1]])
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: os.Args[1] == "moves"}
	orDie(child.Start())
	workerHTTP()
}

// workerFlood is workerHTTP, and slot 0 of it fills its stderr all the while,
// with lines, or with one that never ends. GET /flooded says how many MiB it was.
func workerFlood() {
	chunk := []byte(strings.Repeat("x", 64<<10))
	if os.Args[1] == "lines" {
		chunk = []byte(strings.Repeat("what a nice long line this is, over and over\n", 1500))
	}
	var flooded atomic.Int64
	if os.Getenv(ipc.EnvSlot) == "0" {
		go func() {
			for {
				n, err := os.Stderr.Write(chunk)
				orDie(err)
				flooded.Add(int64(n))
			}
		}()
	}
	http.HandleFunc("GET /flooded", func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(rw, "%d MiB\n", flooded.Load()>>20)
	})
	http.Handle("GET /", answers())
	_, ln := inherit()
	notifyReady()
	server := http.Server{ReadHeaderTimeout: scriptTimeout}
	_ = server.Serve(ln)
}

// stranger listens without forkd, until it is interrupted: with "share", in a
// way that lets others of its user on the port too.
func stranger() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt)
	if path, unixSocket := strings.CutPrefix(os.Args[1], "unix:"); unixSocket {
		_, err := net.Listen("unix", path)
		orDie(err)
		<-signals
		return
	}
	port, err := strconv.Atoi(os.Args[1])
	orDie(err)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	orDie(err)
	if len(os.Args) > 2 && os.Args[2] == "share" {
		orDie(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	}
	orDie(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	orDie(unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}))
	orDie(unix.Listen(fd, 8))
	ln, err := net.FileListener(os.NewFile(uintptr(fd), "listener"))
	orDie(err)
	server := http.Server{Handler: answers(), ReadHeaderTimeout: scriptTimeout}
	go func() { _ = server.Serve(ln) }()
	<-signals
}

// fetch prints a URL's answer, which may take its time.
func fetch() {
	client := http.Client{Timeout: scriptTimeout}
	response, err := client.Get(os.Args[1])
	orDie(err)
	_, err = io.Copy(os.Stdout, response.Body)
	orDie(err)
}
