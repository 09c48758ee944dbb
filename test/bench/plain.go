package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	plainFlag = "--plain"
	fdPrefix  = "fd:" // of an address: a socket that the program has got
)

// plain is a net/http server that knows nothing of forkd, at "PORT" or "fd:NUMBER". It
// leaves the time when its listen(2) had returned in the files. Its socket is made by hand: net.Listen would make one of MPTCP, and put it into an epoll set, which
// the runtime waits for, before it returned.
func plain(at string, stamps []string) error {
	fd, err := plainSocket(at)
	listening := monotonic()
	if err != nil {
		return fmt.Errorf("cannot listen at %s: %w", at, err)
	}
	for _, stamp := range stamps {
		if err := os.WriteFile(stamp, strconv.AppendInt(nil, int64(listening), 10), 0o600); err != nil {
			return err
		}
	}
	file := os.NewFile(uintptr(fd), "listener")
	ln, err := net.FileListener(file)
	if err != nil {
		return err
	}
	file.Close()
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "%d says hello\n", os.Getpid())
		}),
	}
	return server.Serve(ln)
}

func plainSocket(at string) (fd int, err error) {
	number, passed := strings.CutPrefix(at, fdPrefix)
	n, err := strconv.Atoi(number)
	if err != nil || passed {
		return n, err
	}
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: n}); err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 4096)
}

// monotonic is CLOCK_MONOTONIC, which all processes of the machine share.
func monotonic() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // fails only for a bad pointer or clock
	return time.Duration(now.Nano())
}
