package supervisor

import (
	"time"

	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/internal/usage"
)

// How often a starting worker is looked at from outside: seldom at first, often once it
// has called listen(2), and never more than a tenth of the time.
const (
	watchInterval = 50 * time.Millisecond
	watchClosely  = 5 * time.Millisecond
	watchShare    = 10
)

// watches sets which listening sockets the worker has, for watch.
func (w *worker) watches(listeners *sockets.ListenerSet) {
	inodes := listeners.Inodes(w.id.Slot)
	w.inodes.Store(&inodes)
}

// watch tells the pool when the worker waits for connections and, in an app that learns
// its listeners, when it is idle and has none. It ends then, or with the worker.
func (w *worker) watch(e *executor) {
	idle := !w.release.seen.Learns // told, or not asked for
	var used idleness
	for interval := watchClosely; ; {
		began := time.Now()
		if inodes := *w.inodes.Load(); len(inodes) > 0 {
			if waits, known := process.Waits(w.process.PID(), inodes); waits && known {
				e.inbox.postFact(pool.Accepting{ID: w.id})
				return
			}
		} else if !idle && used.since(w.process.PID(), began) {
			idle = true
			e.inbox.postFact(pool.Idled{ID: w.id})
		}
		interval = max(interval, watchShare*time.Since(began))
		select {
		case <-time.After(interval):
			interval = min(2*interval, watchInterval)
		case <-w.look:
			interval = watchClosely
		case <-w.gone:
			return
		case <-e.inbox.done:
			return
		}
	}
}

// idleFor is how long a worker uses little CPU before it counts as idle, and idleCPU how much
// that is, in seconds of CPU per second.
const (
	idleFor = 500 * time.Millisecond
	idleCPU = 0.1
)

// idleness finds out whether a worker's processes do anything.
type idleness struct{ last usage.Figures }

// since reports whether the worker has been idle for idleFor.
func (i *idleness) since(leader int, now time.Time) bool {
	if now.Sub(i.last.At) < idleFor {
		return false
	}
	f, known := usage.Sample([]int{leader})[leader]
	if !known {
		return false
	}
	before := i.last
	i.last = f
	return !before.At.IsZero() && f.CPUSince(before) < idleCPU*f.At.Sub(before.At).Seconds()
}

// lookNow has watch look soon, and often for a while.
func (w *worker) lookNow() {
	select {
	case w.look <- struct{}{}:
	default:
	}
}
