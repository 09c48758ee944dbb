package ipc

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// FirstFD is the number of the first passed socket (sd_listen_fds(3)). The sockets come
// in the order of the listeners, then the channel and the page.
const FirstFD = 3

// maxFDs is the limit of LISTEN_FDS: more than any master passes.
const maxFDs = 4096

// The variables of a worker.
const (
	EnvListenFDs     = "LISTEN_FDS"     // how many sockets were passed, from FirstFD on
	EnvListenPID     = "LISTEN_PID"     // the worker's pid
	EnvListenFDNames = "LISTEN_FDNAMES" // the listeners' names, joined by colons

	EnvServerStarterPort       = "SERVER_STARTER_PORT"       // ADDRESS=FD of each socket, joined by semicolons
	EnvServerStarterGeneration = "SERVER_STARTER_GENERATION" // as EnvGeneration

	EnvNotifySocket = "NOTIFY_SOCKET" // sd_notify(3)
	EnvWatchdogUsec = "WATCHDOG_USEC" // sd_watchdog_enabled(3)
	EnvWatchdogPID  = "WATCHDOG_PID"

	EnvApp        = "FORKD_APP"         // the app's name
	EnvSlot       = "FORKD_SLOT"        // the worker's slot, from 0
	EnvSlots      = "FORKD_SLOTS"       // how many slots there are
	EnvGeneration = "FORKD_GENERATION"  // the number of the roll that started it, from 1
	EnvStopSignal = "FORKD_STOP_SIGNAL" // the signal that starts a drain: "TERM"
	EnvChannelFD  = "FORKD_CHANNEL_FD"  // the message channel
	EnvPageFD     = "FORKD_PAGE_FD"     // the counters page

	EnvMaxConnections = "FORKD_MAX_CONNECTIONS" // how many connections may be open at a time; missing: any number

	EnvDrainTimeout = "FORKD_DRAIN_TIMEOUT" // seconds from the stop signal to SIGKILL, for the preloads of node and Python
	EnvDrainIdle    = "FORKD_DRAIN_IDLE"    // how long they keep idle connections where the app stops, in seconds

	EnvNodeChannelFD   = "NODE_CHANNEL_FD" // the message channel, for node
	EnvNodeChannelMode = "NODE_CHANNEL_SERIALIZATION_MODE"
	EnvNodeAppInstance = "NODE_APP_INSTANCE" // the slot, as pm2 sets it
	EnvNodeOptions     = "NODE_OPTIONS"      // options of node
	EnvPythonPath      = "PYTHONPATH"        // where Python finds modules
	EnvPort            = "PORT"              // the first tcp listener's port
)

// Private reports whether a variable is for one process only, from its supervisor, or
// one of forkd's own: FORKD_REDIS_URL may hold a password. The master does not pass
// them on: they name its own descriptors, sockets and pid.
func Private(key string) bool {
	switch key {
	case EnvListenFDs, EnvListenPID, EnvListenFDNames, "LISTEN_PIDFDID",
		EnvNotifySocket, EnvWatchdogUsec, EnvWatchdogPID,
		EnvNodeChannelFD, EnvNodeChannelMode, "NODE_UNIQUE_ID", EnvNodeAppInstance:
		return true
	}
	return strings.HasPrefix(key, "FORKD_") ||
		strings.HasPrefix(key, "SERVER_STARTER_") ||
		strings.HasPrefix(key, "EINHORN_")
}

// Socket is one passed listening socket.
type Socket struct {
	FD   int
	Name string // "" if the supervisor gave none
}

// Passed is what a worker got, by its environment. A missing number is 0, a missing
// descriptor -1.
type Passed struct {
	Sockets        []Socket
	Channel, Page  int
	Slots          int
	MaxConnections int // 0: no limit

	Watchdog time.Duration // the worker is replaced if it is silent for so long; 0: it is not
}

// Inherited reads what was passed to process pid from its environment. As in
// sd_listen_fds(3), a LISTEN_PID of another process means that nothing is for this one:
// no error and no descriptors. The descriptors are distinct and none of the standard
// ones. An error names the variable that is invalid; the rest is returned with it.
func Inherited(lookup func(string) (string, bool), pid int) (Passed, error) {
	p := Passed{Channel: -1, Page: -1}
	if owner, ok := lookup(EnvListenPID); ok && owner != strconv.Itoa(pid) {
		return p, nil
	}
	var err error
	invalid := func(key, want string) {
		if err == nil {
			text, _ := lookup(key)
			err = fmt.Errorf("cannot use %s=%.100q: want %s", key, text, want)
		}
	}
	number := func(key string, least, most, missing int) int {
		text, ok := lookup(key)
		if !ok {
			return missing
		}
		n, notNumber := strconv.Atoi(text)
		if notNumber != nil || n < least || n > most {
			invalid(key, fmt.Sprintf("a number from %d to %d", least, most))
			return missing
		}
		return n
	}
	const anyNumber = 1<<31 - 1
	p.Channel = number(EnvChannelFD, FirstFD, anyNumber, -1)
	p.Page = number(EnvPageFD, FirstFD, anyNumber, -1)
	p.Slots = number(EnvSlots, 0, anyNumber, 0)
	p.MaxConnections = number(EnvMaxConnections, 1, anyNumber, 0)
	p.Watchdog = time.Duration(number(EnvWatchdogUsec, 1, anyNumber*1000, 0)) * time.Microsecond

	// Without LISTEN_PID the sockets may be for another process.
	sockets := 0
	if _, ok := lookup(EnvListenPID); ok {
		sockets = number(EnvListenFDs, 0, maxFDs, 0)
	}
	if p.Channel >= 0 && p.Channel < FirstFD+sockets {
		invalid(EnvChannelFD, "a descriptor after those of the sockets")
		p.Channel = -1
	}
	if p.Page >= 0 && (p.Page < FirstFD+sockets || p.Page == p.Channel) {
		invalid(EnvPageFD, "a descriptor of its own, after those of the sockets")
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
	return p, err
}
