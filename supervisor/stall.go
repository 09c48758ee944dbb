package supervisor

import (
	"slices"
	"time"

	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
)

// stall finds out whether a worker accepts none of the connections that wait for it. It
// does where all looks at its queue for health.stall find some, and never fewer than before,
// and the worker counts no more accepted ones or, if it does not count, its processes have
// no connection that they had not at first.
type stall struct {
	stalled bool

	queue   int
	accepts uint64        // that the worker has counted
	seen    time.Time     // when nothing was accepted, at the last look; zero: something was
	quiet   time.Duration // for which nothing has been accepted
	asked   time.Time     // for its connections
	held    []uint32      // its connections at first, ascending; nil: not known yet
}

// stallLooks is how often the connections of a worker that seems to be stalled are looked at
// until it is taken for stalled.
const stallLooks = 4

// look notes how many connections wait, and how many the worker has accepted by its own
// count, nil if it has none. It reports whether holds is to be called with its connections.
func (s *stall) look(now time.Time, after time.Duration, queue int, accepts *uint64) (ask bool) {
	accepted := queue == 0 || queue < s.queue
	if accepts != nil {
		accepted = accepted || *accepts != s.accepts
		s.accepts = *accepts
	}
	s.queue = queue
	switch {
	case accepted:
		*s = stall{queue: queue, accepts: s.accepts}
	case s.seen.IsZero():
		s.seen = now
	case accepts != nil:
		s.confirm(now, after)
	case now.Sub(s.asked) >= after/stallLooks:
		s.asked = now
		return true
	}
	return false
}

// holds notes which connections the worker has, ascending, at a time. known is false where
// that can't be seen: then it is not taken for stalled.
func (s *stall) holds(at time.Time, after time.Duration, connections []uint32, known bool) {
	isNew := func(inode uint32) bool {
		_, before := slices.BinarySearch(s.held, inode)
		return !before
	}
	switch {
	case s.seen.IsZero(): // something was accepted meanwhile
	case !known:
		s.held, s.stalled = nil, false
	case s.held == nil || slices.ContainsFunc(connections, isNew):
		s.held, s.seen, s.quiet, s.stalled = append([]uint32{}, connections...), at, 0, false
	default:
		s.confirm(at, after)
	}
}

// confirm notes another look that found nothing accepted. The time between two looks counts
// for half of what is needed at most: the whole machine may have been paused.
func (s *stall) confirm(at time.Time, after time.Duration) {
	s.quiet += min(at.Sub(s.seen), after/2)
	s.seen, s.stalled = at, s.quiet >= after
}

// stalls looks at the queues of ready workers, and on a goroutine at the connections of
// those that seem to be stalled.
func (e *executor) stalls(now time.Time) (events []pool.Event) {
	var asked []*worker
	for _, w := range e.workers {
		queue, known := e.sockets.OwnQueue(w.id.Slot, w.release.listeners, w.id)
		if !known || !w.care.ready || w.cfg.Health.Stall <= 0 {
			w.stall = stall{}
			continue
		}
		var accepts *uint64
		if c, counts := w.link.Counters(); counts {
			accepts = new(c.Own())
		}
		was := w.stall.stalled
		if w.stall.look(now, w.cfg.Health.Stall, queue, accepts) {
			asked = append(asked, w)
		}
		events = append(events, w.stallEvents(was)...)
	}
	if len(asked) > 0 && !e.stallsAsked && !now.Before(e.stallsDue) {
		e.stallsAsked = true
		counting := e.sockets.Counting()
		go func() { e.inbox.postReport(findStalls(counting, asked)) }()
	}
	return events
}

func findStalls(where sockets.Counting, asked []*worker) stallsFound {
	found := stallsFound{asked: asked, at: time.Now()}
	var leaders []int
	for _, w := range asked {
		leaders = append(leaders, w.process.PID())
	}
	if all, err := where.Connections(); err == nil {
		found.held = process.Held(leaders, inodesOf(all))
	}
	found.took = time.Since(found.at)
	return found
}

// inodesOf returns the connections' in ascending order.
func inodesOf(all []sockets.Connection) []uint32 {
	inodes := make([]uint32, len(all))
	for i, c := range all {
		inodes[i] = c.Inode
	}
	slices.Sort(inodes)
	return inodes
}

func (e *executor) noteStalls(f stallsFound, now time.Time) (events []pool.Event) {
	e.stallsAsked, e.stallsDue = false, now.Add(counterShare*f.took)
	for _, w := range f.asked {
		held, known := f.held[w.process.PID()]
		was := w.stall.stalled
		w.stall.holds(f.at, w.cfg.Health.Stall, held, known)
		events = append(events, w.stallEvents(was)...)
	}
	return events
}

func (w *worker) stallEvents(was bool) []pool.Event {
	switch {
	case w.stall.stalled == was:
		return nil
	case w.stall.stalled:
		return []pool.Event{pool.Stalled{ID: w.id}}
	default:
		return []pool.Event{pool.Accepted{ID: w.id}}
	}
}
