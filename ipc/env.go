package ipc

import (
	"fmt"
	"strconv"
	"strings"
)

// FirstFD is the number of the first passed socket (sd_listen_fds(3)). The
// sockets follow each other in the order of the listeners, then come the channel
// and the page.
const FirstFD = 3

// maxFDs bounds LISTEN_FDS: far more than any master passes, far less than what
// would make the worker try numbers for long.
const maxFDs = 4096

// The variables that a worker is given.
const (
	EnvListenFDs     = "LISTEN_FDS"     // how many sockets were passed, from FirstFD on
	EnvListenPID     = "LISTEN_PID"     // the worker's own pid
	EnvListenFDNames = "LISTEN_FDNAMES" // the listeners' names, joined by colons

	EnvNotifySocket = "NOTIFY_SOCKET" // sd_notify(3)
	EnvWatchdogUsec = "WATCHDOG_USEC" // sd_watchdog_enabled(3)
	EnvWatchdogPID  = "WATCHDOG_PID"

	EnvApp        = "FORKD_APP"         // the app's name
	EnvSlot       = "FORKD_SLOT"        // the worker's slot, from 0
	EnvSlots      = "FORKD_SLOTS"       // how many slots there are
	EnvGeneration = "FORKD_GENERATION"  // the number of the roll that started it, from 1
	EnvStopSignal = "FORKD_STOP_SIGNAL" // by which it is asked to drain: "TERM"
	EnvChannelFD  = "FORKD_CHANNEL_FD"  // the message channel
	EnvPageFD     = "FORKD_PAGE_FD"     // the page of counters

	EnvMaxConnections = "FORKD_MAX_CONNECTIONS" // how many the worker may have open at a time; not there: any number

	EnvNodeAppInstance = "NODE_APP_INSTANCE" // the slot, as pm2 sets it
	EnvPort            = "PORT"              // the first tcp listener's port
)

// Private reports whether key is a variable by which a supervisor speaks to the
// one process that it started, or one of forkd's own: FORKD_REDIS_URL may hold a
// password. The master drops them all from what it inherited before it adds a
// worker's own: passed on, they would name descriptors, sockets and pids of
// somebody else. A program's own LISTEN_ADDRESS is not among them.
func Private(key string) bool {
	switch key {
	case EnvListenFDs, EnvListenPID, EnvListenFDNames, "LISTEN_PIDFDID",
		EnvNotifySocket, EnvWatchdogUsec, EnvWatchdogPID,
		"NODE_CHANNEL_FD", "NODE_CHANNEL_SERIALIZATION_MODE", "NODE_UNIQUE_ID", EnvNodeAppInstance:
		return true
	}
	return strings.HasPrefix(key, "FORKD_") ||
		strings.HasPrefix(key, "SERVER_STARTER_") ||
		strings.HasPrefix(key, "EINHORN_")
}

// Socket is one passed listening socket.
type Socket struct {
	FD   int
	Name string // "" where the supervisor gave none
}

// Passed is what the environment says a worker was given. The zero value of a
// number means that it was not there; a descriptor that was not there is -1.
type Passed struct {
	Sockets []Socket
	Channel int
	Page    int

	App        string
	Slot       int
	Slots      int
	Generation int

	MaxConnections int // 0: no limit
}

// Inherited reads what was passed to process pid from its environment. The
// worker calls it once, when it starts. As in sd_listen_fds(3), a LISTEN_PID of
// another process means that nothing is meant for this one: no error and no
// descriptors. Those that come out are each for one thing, and none of the
// standard ones. An error says which variable makes no sense; what could be read
// is returned beside it.
func Inherited(lookup func(string) (string, bool), pid int) (Passed, error) {
	p := Passed{Channel: -1, Page: -1}
	if owner, ok := lookup(EnvListenPID); ok && owner != strconv.Itoa(pid) {
		return p, nil
	}
	p.App, _ = lookup(EnvApp)

	var wrong error
	blame := func(key, want string) {
		if wrong == nil {
			text, _ := lookup(key)
			wrong = fmt.Errorf("cannot use %s=%.100q: want %s", key, text, want)
		}
	}
	number := func(key string, least, most, missing int) int {
		text, ok := lookup(key)
		if !ok {
			return missing
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			blame(key, fmt.Sprintf("a number from %d to %d", least, most))
			return missing
		}
		return n
	}
	const anyNumber = 1<<31 - 1
	p.Channel = number(EnvChannelFD, FirstFD, anyNumber, -1)
	p.Page = number(EnvPageFD, FirstFD, anyNumber, -1)
	p.Slot = number(EnvSlot, 0, anyNumber, 0)
	p.Slots = number(EnvSlots, 0, anyNumber, 0)
	p.Generation = number(EnvGeneration, 0, anyNumber, 0)
	p.MaxConnections = number(EnvMaxConnections, 1, anyNumber, 0)

	// Without LISTEN_PID nobody has said that the sockets are for this process.
	sockets := 0
	if _, ok := lookup(EnvListenPID); ok {
		sockets = number(EnvListenFDs, 0, maxFDs, 0)
	}
	// One descriptor can't be two things: whoever closes one would close both.
	if p.Channel >= 0 && p.Channel < FirstFD+sockets {
		blame(EnvChannelFD, "a descriptor after those of the sockets")
		p.Channel = -1
	}
	if p.Page >= 0 && (p.Page < FirstFD+sockets || p.Page == p.Channel) {
		blame(EnvPageFD, "a descriptor of its own, after those of the sockets")
		p.Page = -1
	}
	joined, _ := lookup(EnvListenFDNames)
	names := strings.Split(joined, ":")
	for i := range sockets {
		s := Socket{FD: FirstFD + i}
		if i < len(names) {
			s.Name = names[i]
		}
		p.Sockets = append(p.Sockets, s)
	}
	return p, wrong
}
