// Package systemd is what the master says to the service manager above it:
// sd_notify(3), where there is one. The workers have notify sockets of the
// master's own and never speak to systemd.
//
// It keeps one invariant: whoever tells is never held up, whatever the service
// manager does. It decides nothing.
package systemd

import (
	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier sends state to the service manager in the order it is told.
type Notifier struct {
	states chan string
	done   chan struct{}
}

// pending is how many states wait for a service manager that does not read. One
// that is behind by more is told nothing more.
const pending = 256

// NewNotifier starts a Notifier. Without NOTIFY_SOCKET in the environment it
// speaks to nobody. Close ends it.
func NewNotifier() *Notifier {
	n := &Notifier{states: make(chan string, pending), done: make(chan struct{})}
	go n.run()
	return n
}

func (n *Notifier) run() {
	defer close(n.done)
	for state := range n.states {
		// Nobody could do anything about it: without its messages the service
		// manager goes by its own timeouts.
		_, _ = daemon.SdNotify(false, state)
	}
}

// Tell sends newline-separated assignments ("READY=1", "STATUS=..."). It does
// not block.
func (n *Notifier) Tell(state string) {
	select {
	case n.states <- state:
	default:
	}
}

// Close ends the Notifier when what was told has been sent. Tell must not be
// called any more.
func (n *Notifier) Close() {
	close(n.states)
	<-n.done
}
