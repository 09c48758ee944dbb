package supervisor

import (
	"fmt"

	"github.com/forkd/forkd/internal/pool"
)

// share is how many of so many connections of the host a slot may have: the
// first slots take what does not divide. It is never 0, which would be no limit:
// where a reload leaves more slots than there are connections, each has one.
func share(connections int64, slot, slots int) int64 {
	each, rest := connections/int64(max(1, slots)), connections%int64(max(1, slots))
	if int64(slot) < rest {
		each++
	}
	return max(1, each)
}

// checkSlots says why the configuration does not allow so many slots: there is a
// limit to them, or they can't share the host's connections.
func checkSlots(cfg Config, slots int) error {
	if most := cfg.WorkersMax; most > 0 && slots > most {
		return fmt.Errorf("%d workers are more than workers_max (%d): raise it and reload, or scale to fewer", slots, most)
	}
	if most := cfg.Redis.MaxConnections; most > 0 && int64(slots) > most {
		return fmt.Errorf("cannot share %d connections out among %d workers: raise redis.max_connections_per_host, and reload", most, slots)
	}
	return nil
}

// shareAgain gives the workers their shares of so many slots. One that leaves
// keeps what it has: it gets no new connections, and the others need not wait.
func (h *host) shareAgain(slots int) {
	for id, w := range h.workers {
		w.share(id, slots)
	}
}

// share tells a worker its share by its page. What it has beyond that stays.
func (w *worker) share(id pool.ID, slots int) {
	most := w.cfg.Redis.MaxConnections
	if most > 0 && id.Slot < slots {
		w.link.SetLimit(share(most, id.Slot, slots))
	}
}
