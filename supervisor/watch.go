package supervisor

import (
	"time"

	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
)

// How often a starting worker is looked at from outside: closely at first, then less often,
// each time by a quarter. More than ten workers share 200 looks a second, and none is looked
// at for more than a tenth of the time. Once it has called listen(2) or said that it is
// ready, it waits for connections in a moment: then it is looked at at once, after twice
// watchAtOnce and twice as long each time until it is watchClosely again, maxBursts times.
const (
	watchInterval = 50 * time.Millisecond
	watchClosely  = 5 * time.Millisecond
	watchAtOnce   = 500 * time.Microsecond
	watchShare    = 10
	maxBursts     = 16
)

// heldInterval is how often it is looked whether a worker that is not seen to wait has
// connections: one that is full when it starts may never wait again.
const heldInterval = 500 * time.Millisecond

// watches sets which listening sockets the worker has, and where its connections are, for
// watch.
func (w *worker) watches(listeners *sockets.ListenerSet, where sockets.Counting) {
	inodes := listeners.Inodes(w.id.Slot)
	w.inodes.Store(&inodes)
	w.counting.Store(&where)
}

// hasAccepted reports whether the worker has counted a connection of a socket that it was
// passed. One that is busy from its first moment may hardly ever wait for another.
func (w *worker) hasAccepted() bool {
	c, counts := w.link.Counters()
	return counts && c.Passed && c.Own() > 0
}

// serves reports whether the worker has accepted a connection, which takes long: the kernel
// looks at all of the machine's.
func (w *worker) serves() bool {
	connections, err := w.counting.Load().Connections()
	if err != nil || len(connections) == 0 {
		return false
	}
	leader := w.process.PID()
	return len(process.Held([]int{leader}, inodesOf(connections))[leader]) > 0
}

// watch tells the pool when the worker waits for connections and, in an app that learns
// its listeners, when it is idle and has none. It ends when the worker is not starting any
// more: nobody wants to know then.
func (w *worker) watch(e *executor) {
	e.watching.Add(1)
	defer e.watching.Add(-1)
	idle := !w.release.seen.Learns // told, or not asked for
	var used idleness
	held := time.Now().Add(heldInterval) // when serves is asked next
	interval, bursts := watchClosely, 0
	for next := time.NewTimer(interval); !w.begun.Load(); next.Reset(interval) {
		look := w.look
		if interval < watchClosely || bursts == maxBursts {
			look = nil // a look comes in a moment anyway, or it says that again and again
		}
		select {
		case <-next.C:
		case <-look:
			interval = watchAtOnce
			bursts++
		case <-w.gone:
			return
		case <-e.inbox.done:
			return
		}
		began := time.Now()
		if inodes := *w.inodes.Load(); len(inodes) > 0 {
			accepts := w.hasAccepted() || process.Waits(w.process.PID(), inodes)
			if !accepts && began.After(held) {
				asked := time.Now()
				accepts = w.serves()
				held = began.Add(max(heldInterval, counterShare*time.Since(asked)))
			}
			if accepts {
				e.inbox.postFact(pool.Accepting{ID: w.id})
				return
			}
		} else if !idle && !w.mayListen(e) && used.since(w.process.PID(), began) {
			idle = true
			e.inbox.postFact(pool.Idled{ID: w.id})
		}
		interval = nextLook(interval, time.Since(began), int(e.watching.Load()))
	}
}

// nextLook is how long after a look the next one comes: after interval came the last one,
// which took so long, and so many workers are watched.
func nextLook(interval, took time.Duration, watched int) time.Duration {
	if interval < watchClosely {
		return 2 * interval
	}
	interval = min(interval+interval/4, max(watchInterval, time.Duration(watched)*watchClosely))
	return max(interval, watchShare*took)
}

// A worker counts as idle that has wanted less than idleShare of a CPU for idleFor: longer
// than most programs wait for something else before they listen.
const (
	idleFor   = 4 * time.Second
	idleShare = 0.05
)

// idleness finds out whether a worker's processes do anything.
type idleness struct {
	at     time.Time // of the last look; zero: none yet
	demand time.Duration
}

// since reports whether the worker has been idle for idleFor.
func (i *idleness) since(leader int, now time.Time) bool {
	past := now.Sub(i.at)
	if !i.at.IsZero() && past < idleFor {
		return false
	}
	demand, known := process.Demand(leader)
	wanted := demand - i.demand // less than 0: threads have ended, which did something
	idle := known && !i.at.IsZero() && wanted >= 0 && wanted.Seconds() < idleShare*past.Seconds()
	i.at, i.demand = now, demand
	return idle
}

// mayListen reports whether the worker has bound an address on which it may yet listen, or
// is about to.
func (w *worker) mayListen(e *executor) bool {
	cl := w.claim.Load()
	return cl != nil && cl.stands(&e.closer)
}

// lookNow has watch look soon, and often for a while.
func (w *worker) lookNow() {
	select {
	case w.look <- struct{}{}:
	default:
	}
}
