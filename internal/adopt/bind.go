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

// ErrStopped says that the wait for a port was ended by a stop signal, or by ctx.
var ErrStopped = errors.New("stopped while waiting for the workers of a killed master")

// releaseTimeout is how long a port may take to come free when its holders have been
// killed: they have to be scheduled to die, on a busy machine too.
const releaseTimeout = 10 * time.Second

// Listen binds the listeners. It waits, for timeout at most, while leftovers still
// hold a port, as they are draining, then kills them. A port whose holder cannot be
// found is tried for as long as leftovers live and releaseTimeout more. SIGINT,
// SIGTERM and SIGQUIT end the wait; other signals are dropped meanwhile.
func (s *Leftovers) Listen(ctx context.Context, signals <-chan os.Signal, set *sockets.Set, listeners []sockets.Listener, slots int, timeout time.Duration, log *slog.Logger) (*sockets.ListenerSet, error) {
	giveUp := time.NewTimer(timeout)
	defer giveUp.Stop()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
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
		case <-retry.C:
		case <-giveUp.C:
			if killed {
				return nil, err
			}
			log.Warn("killing the workers of a killed master: drain.timeout is past")
			s.kill()
			killed = true
			giveUp.Reset(releaseTimeout)
		case sig := <-signals:
			if sig == syscall.SIGINT || sig == syscall.SIGTERM || sig == syscall.SIGQUIT {
				return nil, ErrStopped
			}
		case <-ctx.Done():
			return nil, ErrStopped
		}
	}
}

// holderUnknown reports whether no process holding the port was found: it belongs to
// another user, or has just exited.
func holderUnknown(held *sockets.HeldError) bool {
	return !slices.ContainsFunc(held.Holders, func(h sockets.Holder) bool { return h.PID != 0 })
}
