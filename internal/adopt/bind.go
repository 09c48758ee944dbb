package adopt

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/sockets"
)

// ErrStopped says that a stop signal or ctx has ended the wait for a port.
var ErrStopped = errors.New("stopped while waiting for the workers of a killed master")

// releaseTimeout is how long killed holders may take to release a port, on a busy machine.
const releaseTimeout = 10 * time.Second

// Listen binds the listeners. While draining leftovers hold a port it waits, for timeout at
// most, then kills them. A port with an unknown holder is retried while leftovers live and
// releaseTimeout more. SIGINT, SIGTERM and SIGQUIT end the wait; other signals are dropped.
func (s *Leftovers) Listen(ctx context.Context, signals <-chan os.Signal, set *sockets.Set, listeners []sockets.Listener, slots int, timeout time.Duration, log *slog.Logger) (*sockets.ListenerSet, error) {
	giveUp, retry := time.After(timeout), time.Tick(50*time.Millisecond)
	lastSeen := time.Now()
	for waiting, killed := false, false; ; {
		bound, err := set.Open(listeners, slots)
		held, ok := errors.AsType[*sockets.HeldError](err)
		switch {
		case !ok:
			return bound, err
		case held.Only(s.Owns), holderUnknown(held) && s.Alive():
			lastSeen = time.Now()
		case !holderUnknown(held) || time.Since(lastSeen) > releaseTimeout:
			return nil, err
		}
		if !waiting && !holderUnknown(held) {
			waiting = true
			log.Warn("waiting for the workers of a killed master to let go of the port", "listener", held.Listener.String(), "holder", held.Holders[0].String())
		}
		select {
		case <-retry:
		case <-giveUp:
			if killed {
				return nil, err
			}
			log.Warn("killing the workers of a killed master: drain.timeout is past")
			s.kill()
			killed = true
			giveUp = time.After(releaseTimeout)
		case sig := <-signals:
			if sig == syscall.SIGINT || sig == syscall.SIGTERM || sig == syscall.SIGQUIT {
				return nil, ErrStopped
			}
		case <-ctx.Done():
			return nil, ErrStopped
		}
	}
}

// holderUnknown reports whether no holder was found: it is another user's, or has exited.
func holderUnknown(held *sockets.HeldError) bool {
	return !slices.ContainsFunc(held.Holders, func(h sockets.Holder) bool { return h.PID != 0 })
}
