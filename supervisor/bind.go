package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/forkd/forkd/internal/sockets"
)

// openSockets binds the listeners. Where workers of a killed master of this very
// app still hold a port, it waits for them, as they are draining, and kills what
// is left when drain.timeout is past. One that nobody is seen to hold is tried
// for as long as such workers live, and a second more.
func openSockets(ctx context.Context, set *sockets.Set, listeners []sockets.Listener, slots int, cfg Config, left *leftovers, log *slog.Logger) (*sockets.ListenerSet, error) {
	patience := time.NewTimer(cfg.Drain.Timeout)
	defer patience.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	lastSeen := time.Now()
	for waiting, killed := false, false; ; {
		lineup, err := set.Open(listeners, slots)
		held, ok := errors.AsType[*sockets.HeldError](err)
		switch {
		case !ok:
			return lineup, err
		case held.Only(left.owns), faceless(held) && left.alive():
			lastSeen = time.Now()
		case !faceless(held) || time.Since(lastSeen) > letGo:
			return nil, err
		}
		if !waiting && !faceless(held) {
			waiting = true
			log.Warn("waiting for the workers of a killed master to let go of the port", "listener", held.Listener.String(), "holder", held.Holders[0].String())
		}
		select {
		case <-again.C:
		case <-patience.C:
			if killed {
				return nil, err
			}
			log.Warn("killing the workers of a killed master: drain.timeout is past")
			left.kill()
			killed = true
			patience.Reset(letGo)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// letGo is how long a port may take to come free when its holders have been killed:
// they have to be scheduled to die, on a busy machine too.
const letGo = 10 * time.Second

// faceless reports whether nobody could be found who holds the port: a process
// of another user, or one that has let go since, as a worker that ends does.
func faceless(held *sockets.HeldError) bool {
	return !slices.ContainsFunc(held.Holders, func(h sockets.Holder) bool { return h.PID != 0 })
}
