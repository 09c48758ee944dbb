package process

import (
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit is how a worker's leader ended: with a status (Signal is 0), or by a signal (Code
// is -1).
type Exit struct {
	At     time.Time // when the master noticed
	Code   int
	Signal syscall.Signal
	Core   bool // it dumped core
	Traced bool // a tracer has its status and has not released it
	// Leftovers: other processes of its group live. The leader is reaped after their end,
	// and groupEnded follows (see Process.Watch).
	Leftovers bool
}

// String is "exit status 3", "killed by SIGKILL" or "killed by SIGSEGV (core
// dumped)".
func (e Exit) String() string {
	switch {
	case e.Traced:
		return "ended while it was traced (gdb, strace): its tracer has not released it"
	case e.Signal == 0:
		return fmt.Sprintf("exit status %d", e.Code)
	case e.Core:
		return fmt.Sprintf("killed by %s (core dumped)", signalName(e.Signal))
	default:
		return "killed by " + signalName(e.Signal)
	}
}

func signalName(sig syscall.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(sig)) // a real-time signal
}

// siginfoChild is siginfo_t of waitid(2) on 64-bit Linux.
type siginfoChild struct {
	signo, errno, code int32
	_                  int32
	pid                int32
	uid                uint32
	status             int32
}

// Values of si_code for SIGCHLD (sigaction(2)).
const (
	cldExited = 1
	cldDumped = 3
)

// exit converts the result of waitid.
func (s siginfoChild) exit(at time.Time) Exit {
	if s.code == cldExited {
		return Exit{At: at, Code: int(s.status)}
	}
	return Exit{At: at, Code: -1, Signal: syscall.Signal(s.status), Core: s.code == cldDumped}
}
