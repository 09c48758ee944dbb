// Package systemd talks to the service manager of the master: notifications
// (sd_notify(3)), the file descriptor store, passed sockets (sd_listen_fds(3)),
// properties of its unit, and the unit files. Workers get notify sockets and variables
// from the master and never talk to systemd.
//
// The invariant: no caller blocks, whatever the service manager does.
package systemd

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier sends messages and descriptors to the service manager, in order. Its methods
// are for concurrent use, and only Close blocks.
type Notifier struct {
	address string        // NOTIFY_SOCKET; "": no service manager
	wake    chan struct{} // holds one when there is something new
	done    chan struct{}

	mu      sync.Mutex
	waiting []message
	closed  atomic.Bool
}

// message is one datagram.
type message struct {
	state string
	fd    int // sent along, then closed; -1: none
}

// Limits for a service manager that does not read. Messages beyond them are dropped; its
// own timeouts apply then.
const (
	maxWaiting  = 8192        // twice the store of forkd@.service
	sendTimeout = time.Second // for one datagram; after Close, for all
)

// NewNotifier starts a Notifier. Without NOTIFY_SOCKET in the environment it sends
// nothing. Close ends it.
func NewNotifier() *Notifier {
	n := &Notifier{address: os.Getenv("NOTIFY_SOCKET"), wake: make(chan struct{}, 1), done: make(chan struct{})}
	go n.run()
	return n
}

// Managed reports whether there is a service manager.
func (n *Notifier) Managed() bool { return n.address != "" }

// Tell sends newline-separated assignments ("READY=1", "STATUS=..."), such as those of
// Reloading and Extend.
func (n *Notifier) Tell(state string) { n.put(message{state: state, fd: -1}) }

// Store sends a copy of a descriptor to the store, which passes it under that name to the
// next main process of the unit, however this one ends (FDSTORE=1 in sd_notify(3); the
// unit needs FileDescriptorStoreMax=). A name has up to 255 printable characters and no
// colon. A descriptor that is in the store already keeps its first name until it is
// removed. FDPOLL=0: systemd would drop a listening socket that a worker has shut down.
// An invalid name and a failed dup are ignored.
func (n *Notifier) Store(name string, fd int) {
	if n.address == "" || !storable(name) {
		return
	}
	kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return
	}
	n.put(message{state: "FDSTORE=1\nFDNAME=" + name + "\nFDPOLL=0", fd: kept})
}

// Remove removes all descriptors of that name from the store.
func (n *Notifier) Remove(name string) {
	if storable(name) {
		n.put(message{state: "FDSTOREREMOVE=1\nFDNAME=" + name, fd: -1})
	}
}

// storable is fdname_is_valid of systemd's fd-util.c, which would replace another name.
// A line break would begin another assignment.
func storable(name string) bool {
	const longest = 255
	return name != "" && len(name) <= longest && !strings.ContainsFunc(name, func(r rune) bool {
		return r < ' ' || r >= 0x7f || r == ':'
	})
}

// Watchdog returns the interval for WATCHDOG=1, half of the timeout, as
// sd_watchdog_enabled(3) advises. 0: no watchdog, or for another process.
func (n *Notifier) Watchdog() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); n.address == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 || usec > int64(time.Duration(1<<63-1)/time.Microsecond) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond / 2
}

// Close ends the Notifier after all messages are sent, or a second after the service
// manager has stopped reading. Later messages are dropped.
func (n *Notifier) Close() {
	n.closed.Store(true)
	n.poke()
	<-n.done
}

func (n *Notifier) put(m message) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.waiting) >= maxWaiting || n.closed.Load() || n.address == "" {
		m.drop()
		return
	}
	n.waiting = append(n.waiting, m)
	n.poke()
}

func (n *Notifier) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *Notifier) run() {
	defer close(n.done)
	socket := -1
	if n.address != "" {
		socket = openSocket()
	}
	stuck := false // a message was not read within sendTimeout
	for end := false; !end; {
		<-n.wake
		n.mu.Lock()
		batch := n.waiting
		n.waiting, end = nil, n.closed.Load()
		n.mu.Unlock()
		for _, m := range batch {
			// Errors are ignored: without messages the service manager's own timeouts
			// apply.
			if socket >= 0 && (!stuck || !n.closed.Load()) {
				stuck = errors.Is(m.send(socket, n.address), unix.EAGAIN)
			}
			m.drop()
		}
	}
	if socket >= 0 {
		unix.Close(socket)
	}
}

// openSocket opens the sending socket; -1: it failed. Not a net.UnixConn, whose
// WriteMsgUnix can't send descriptors when connected.
func openSocket() int {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	limit := unix.NsecToTimeval(int64(sendTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		unix.Close(fd)
		return -1
	}
	return fd
}

// send returns EAGAIN after sendTimeout.
func (m message) send(socket int, address string) error {
	var rights []byte
	if m.fd >= 0 {
		rights = unix.UnixRights(m.fd)
	}
	to := &unix.SockaddrUnix{Name: address} // "@" is an abstract name, as in NOTIFY_SOCKET
	for {
		err := unix.Sendmsg(socket, []byte(m.state), rights, to, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// drop closes the message's descriptor.
func (m message) drop() {
	if m.fd >= 0 {
		unix.Close(m.fd)
	}
}

// Reloading is the message that the configuration is being read again; the next READY=1
// ends that. systemd 253 needs the time for its ReloadSignal= (sd_notify(3)).
func Reloading() string {
	var now unix.Timespec
	// It can't fail (clock_gettime(2)).
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/int64(time.Microsecond))
}

// Extend is the message that extends the service manager's current timeout to d from
// now (EXTEND_TIMEOUT_USEC in sd_notify(3)).
func Extend(d time.Duration) string {
	return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", max(d, 0).Microseconds())
}
