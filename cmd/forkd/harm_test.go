package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/httpserve"
)

// belongings is what a worker can do harm with.
type belongings struct {
	channel *os.File
	page    int
	ln      net.Listener
}

// workerHarm is workerHTTP until SIGUSR1: then it does the harm that its
// argument names, and says what came of it.
func workerHarm() {
	harm := map[string]func(belongings) error{
		"garbage":         func(b belongings) error { return b.say([]byte("\x00\xff{{ no JSON\n")) },
		"endless-message": func(b belongings) error { return b.say(bytes.Repeat([]byte{'7'}, 2<<20)) },
		"resize-page":     belongings.resizePage,
		"scribble":        belongings.scribble,
		"overwrite-page":  func(b belongings) error { return b.fillPage(0) },
		"unmap-page":      belongings.unmapPage,
		"close-listener":  func(b belongings) error { return b.ln.Close() },
	}[os.Args[1]]
	b := borrow() // before New takes the variables away
	w := worker.New()
	ln, err := w.Listen("http", "127.0.0.1:0")
	orDie(err)
	b.ln = ln
	ordered := make(chan os.Signal, 1)
	signal.Notify(ordered, syscall.SIGUSR1)
	go func() {
		for range ordered {
			err := harm(b)
			fmt.Printf("%s: %v\n", os.Args[1], err)
		}
	}()
	orDie(httpserve.Serve(w, &http.Server{Handler: answers(), ReadHeaderTimeout: scriptTimeout}, ln))
}

// workerBusy is workerHTTP, and so busy that it is never seen to wait for a connection.
func workerBusy() {
	runtime.GOMAXPROCS(1)
	go func() {
		for {
			runtime.Gosched()
		}
	}()
	workerHTTP()
}

// workerElsewhere serves HTTP on a port of its own. With "deaf" it listens on the socket that
// it was passed too, and accepts nothing there.
func workerElsewhere() {
	w := worker.New()
	if len(os.Args) > 2 {
		_, err := w.Listen("http", "127.0.0.1:0")
		orDie(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	orDie(err)
	orDie(httpserve.Serve(w, &http.Server{Handler: answers(), ReadHeaderTimeout: scriptTimeout}, ln))
}

// borrow keeps copies of what the worker package will take and close.
func borrow() belongings {
	keep := func(key string) int {
		fd, err := strconv.Atoi(os.Getenv(key))
		orDie(err)
		kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		orDie(err)
		return kept
	}
	return belongings{channel: os.NewFile(uintptr(keep(ipc.EnvChannelFD)), "channel"), page: keep(ipc.EnvPageFD)}
}

// say writes to the channel until the master has closed it. The descriptor does
// not block, and is not in the runtime's poller.
func (b belongings) say(data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(int(b.channel.Fd()), data)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			poll := []unix.PollFd{{Fd: int32(b.channel.Fd()), Events: unix.POLLOUT}}
			_, _ = unix.Poll(poll, 1000)
		case err != nil:
			return err
		default:
			data = data[n:]
		}
	}
	return nil
}

// resizePage tries to pull the page from under the master's reads.
func (b belongings) resizePage() error {
	return errors.Join(
		unix.Ftruncate(b.page, 0),
		unix.Ftruncate(b.page, 1<<20),
		unix.Fallocate(b.page, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, ipc.PageSize),
	)
}

// scribble writes absurd figures where the counters are, and leaves the head
// that makes the master read them.
func (b belongings) scribble() error { return b.fillPage(64) }

func (b belongings) fillPage(from int64) error {
	_, err := unix.Pwrite(b.page, bytes.Repeat([]byte{0x7f}, int(ipc.PageSize-from)), from)
	return err
}

// unmapPage takes the page away from the worker's own counting.
func (b belongings) unmapPage() error {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.Contains(line, "forkd-page") {
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return err
		}
		if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, from, to-from, 0); errno != 0 {
			return errno
		}
		return nil
	}
	return errors.New("no page is mapped")
}
