package systemd

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier sends state and descriptors to the service manager in the order it
// is told. Its methods are for any goroutine, and none of them blocks but Close.
type Notifier struct {
	address string        // NOTIFY_SOCKET; "": there is nobody to tell
	wake    chan struct{} // holds one when there is something new
	done    chan struct{}

	mu      sync.Mutex
	waiting []message
	states  int // of them, those that are not about the store
	closed  bool
}

// message is one datagram.
type message struct {
	state string
	fd    int  // sent along, and closed then; -1: none
	store bool // it puts something into the store, or takes it out
}

// Limits for a service manager that does not read. One that is behind by more
// is told nothing more; it goes by its own timeouts then.
const (
	pendingStates = 256
	pendingStores = 8192        // twice what forkd@.service has room for
	patience      = time.Second // for one datagram; at the end, for all
)

// NewNotifier starts a Notifier. Without NOTIFY_SOCKET in the environment it
// speaks to nobody. Close ends it.
func NewNotifier() *Notifier {
	n := &Notifier{address: os.Getenv("NOTIFY_SOCKET"), wake: make(chan struct{}, 1), done: make(chan struct{})}
	go n.run()
	return n
}

// Managed reports whether there is somebody to tell.
func (n *Notifier) Managed() bool { return n.address != "" }

// Tell sends newline-separated assignments ("READY=1", "STATUS=..."): what
// Reloading and Extend return among them.
func (n *Notifier) Tell(state string) { n.put(message{state: state, fd: -1}) }

// Store gives the service manager a copy of a descriptor, which comes back to
// the next process of the unit under that name, and stays in the store however
// this one ends (FDSTORE=1 in sd_notify(3); the unit needs
// FileDescriptorStoreMax=). A name has up to 255 printable characters and no
// colon; what is in the store already, under whatever name, keeps that one until
// it is removed. systemd would drop a descriptor when poll(2) says that it has hung up,
// which a listening socket does when a worker shuts it down; FDPOLL=0 keeps it.
// The fd stays the caller's. What can't be stored, for its name or for want of
// a descriptor, is not.
func (n *Notifier) Store(name string, fd int) {
	if n.address == "" || !storable(name) {
		return
	}
	kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return
	}
	n.put(message{state: "FDSTORE=1\nFDNAME=" + name + "\nFDPOLL=0", fd: kept, store: true})
}

// Remove takes every descriptor of that name out of the store.
func (n *Notifier) Remove(name string) {
	if storable(name) {
		n.put(message{state: "FDSTOREREMOVE=1\nFDNAME=" + name, fd: -1, store: true})
	}
}

// storable is fdname_is_valid of systemd's fd-util.c: of another name it would
// make its own. And a line break would begin another assignment.
func storable(name string) bool {
	const longest = 255
	return name != "" && len(name) <= longest && !strings.ContainsFunc(name, func(r rune) bool {
		return r < ' ' || r >= 0x7f || r == ':'
	})
}

// Watchdog returns how often the service manager wants to hear WATCHDOG=1: half
// the time after which it acts, as sd_watchdog_enabled(3) advises. 0: it does
// not, or it means another process.
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

// Close ends the Notifier when what was told has been sent, or a second after a
// service manager has stopped reading. What is told from now on is dropped.
func (n *Notifier) Close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.poke()
	<-n.done
}

func (n *Notifier) put(m message) {
	n.mu.Lock()
	full := n.states >= pendingStates
	if m.store {
		full = len(n.waiting)-n.states >= pendingStores
	}
	if full || n.closed || n.address == "" {
		n.mu.Unlock()
		m.drop()
		return
	}
	if !m.store {
		n.states++
	}
	n.waiting = append(n.waiting, m)
	n.mu.Unlock()
	n.poke()
}

func (n *Notifier) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// take returns what waits, and whether that is the end.
func (n *Notifier) take() (batch []message, end bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	batch, n.waiting, n.states = n.waiting, nil, 0
	return batch, n.closed
}

func (n *Notifier) isClosed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed
}

func (n *Notifier) run() {
	defer close(n.done)
	socket := -1
	if n.address != "" {
		socket = open()
	}
	stuck := false // nobody had read for as long as patience
	for end := false; !end; {
		<-n.wake
		var batch []message
		batch, end = n.take()
		for _, m := range batch {
			// Nobody could do anything about an error: without its messages the
			// service manager goes by its own timeouts.
			if socket >= 0 && (!stuck || !n.isClosed()) {
				stuck = errors.Is(m.send(socket, n.address), unix.EAGAIN)
			}
			m.drop()
		}
	}
	if socket >= 0 {
		unix.Close(socket)
	}
}

// open makes the socket that everything is sent from, -1 where that fails. Not
// a net.UnixConn: its WriteMsgUnix refuses to send descriptors when connected.
func open() int {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	limit := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		unix.Close(fd)
		return -1
	}
	return fd
}

// send blocks for patience at most, and returns EAGAIN then.
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

// drop gives back what a message holds.
func (m message) drop() {
	if m.fd >= 0 {
		unix.Close(m.fd)
	}
}
