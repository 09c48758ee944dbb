// Package capture answers bind(2) and listen(2) of a worker's processes
// (seccomp_unotify(2)): each call waits in the kernel until the master has answered it.
//
// The invariant: every call is answered, and a call that is not about a stream socket at
// a named port or path, or that can't be read, goes on as if nobody had looked. What a
// process does meanwhile (it dies, changes its memory, replaces its descriptor) costs
// nobody but itself more than its answer.
//
// What an address means, and which socket a program gets, is decided by the caller. The
// filter is set by internal/process.
package capture

import (
	"errors"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/pace"
)

// A Call is a bind(2) or listen(2) that waits for its Answer. Its thread handles no signal
// but SIGKILL meanwhile (before Linux 5.19 any signal ends or repeats the call). bind(2) to
// port 0 is no Call, but listen(2) after it is one: no bind(2) had its Cookie.
type Call struct {
	Listen bool   // listen(2), else bind(2)
	PID    int    // of the process, not the thread
	FD     int    // its descriptor
	Socket int    // a copy of its socket, until the handler has returned
	Cookie uint64 // SO_COOKIE of that

	Network string         // "tcp", also for MPTCP, or "unix"
	Address netip.AddrPort // tcp: of bind(2), or where the socket is bound; may be v4-mapped; the zone is a number; the port is never 0
	Path    string         // unix: absolute and clean, a relative one resolved now; never an abstract name

	V6          bool // the socket is AF_INET6
	V6Only      bool
	Nonblocking bool
	CloseOnExec bool
}

// Answer is what the program gets.
type Answer struct {
	Handled bool // return 0; false: the call goes on as if nobody had looked
	Socket  int  // Handled: put this in place of the program's first; closed by Serve; -1: only return 0
}

const (
	maxHandled = 16     // calls of a Listener whose handlers run; the others wait
	maxRate    = 10_000 // answers per second, of a Listener
	handled    = 3      // as many of them does a call with a handler count: it takes some 75 µs of CPU time, others 10
)

// Listener is the seccomp listener of a worker.
type Listener struct {
	file   *os.File
	raw    syscall.RawConn
	closer closing.Closer // of copies, which can linger when the process has closed its own

	netns  uint64 // cookie of this process's network namespace; 0: the kernel has none
	rate   int    // maxRate
	thread int    // flag of pidfd_open(2) for a thread; 0: the kernel has none (before Linux 6.9)
}

// New takes over a listener, from process.Process.Capture.
func New(fd int) *Listener {
	_ = unix.SetNonblock(fd, true) // for Go's poller
	file := os.NewFile(uintptr(fd), "seccomp")
	raw, _ := file.SyscallConn() // fails only for nil
	return &Listener{file: file, raw: raw, netns: ownNetns(), rate: maxRate, thread: unix.PIDFD_THREAD}
}

// Serve answers all calls, with handle those that the caller may want to decide about. It
// returns when no process has the filter any more, and all handlers have returned. The
// Listener is closed then. handle runs on goroutines of its own, and may wait.
func (l *Listener) Serve(handle func(Call) Answer) {
	defer l.file.Close()
	var handlers sync.WaitGroup
	defer handlers.Wait()
	places := make(chan struct{}, maxHandled)
	rate := pace.New(l.rate, time.Now())
	for {
		n, err := l.next()
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) { // its thread has died, or a signal has ended the call
			continue
		}
		if err != nil {
			return
		}
		cost := 1
		if s, ok := l.look(n); ok {
			cost = handled
			places <- struct{}{}
			handlers.Go(func() {
				l.finish(n, s, handle(s.Call))
				<-places
			})
		} else {
			l.discard(s.Socket)
			l.pass(n)
		}
		time.Sleep(rate.Take(cost, time.Now()))
	}
}

// finish gives the program what the handler decided. The copy goes before the program
// goes on, which may close its socket and bind another to the address.
func (l *Listener) finish(n *notification, s seen, a Answer) {
	l.discard(s.Socket)
	if !a.Handled {
		l.pass(n)
		return
	}
	if a.Socket >= 0 {
		defer l.discard(a.Socket)
		if link, err := linkOf(strconv.Itoa(int(n.TID)), s.FD); err != nil || link != s.link { // it has been closed meanwhile
			l.send(n, unix.EBADF)
			return
		}
		if err := l.put(n, a.Socket, s.FD, s.CloseOnExec); err != nil {
			l.pass(n)
			return
		}
	}
	l.send(n, 0)
}

// discard closes a descriptor that may be the last one of what a process has opened; -1:
// there is none.
func (l *Listener) discard(fd int) {
	if fd >= 0 {
		l.closer.Run(func() { unix.Close(fd) })
	}
}
