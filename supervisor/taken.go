package supervisor

import (
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
)

// takenGrace is how long a worker has, from when it is ready, to listen where the one before
// it in its slot did.
const takenGrace = 2 * time.Second

// takenAt is where a worker's process has got a socket of its slot's, and when. Each time it
// is another one.
type takenAt struct {
	pid, fd int
	at      time.Time
}

// has reports whether the socket is still there.
func (at *takenAt) has(inode uint32) bool {
	if at == nil {
		return false
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", at.pid, at.fd))
	return err == nil && link == fmt.Sprintf("socket:[%d]", inode)
}

// awaited is a worker's sockets on which connections wait, by inode.
type awaited map[uint32]*takenAt

// lookAtTaken finds out whether workers still listen on what they have told of: a worker may
// close a port, and its successor may not open it. Connections there would wait in vain.
func (e *executor) lookAtTaken(now time.Time) {
	asked := map[*worker]awaited{}
	for _, w := range e.workers {
		if !w.care.ready {
			continue
		}
		if now.Sub(w.care.readyAt) > takenGrace {
			gone, err := e.sockets.Passed(w.id.Slot, w.release.listeners)
			e.notTaken(gone, err)
		}
		for _, inode := range e.sockets.Awaited(w.id) {
			at := w.taken[inode]
			if at != nil && now.Sub(at.at) < inspectInterval {
				continue // it may not have got it yet
			}
			if asked[w] == nil {
				asked[w] = awaited{}
			}
			asked[w][inode] = at
		}
	}
	if len(asked) > 0 && !e.takenAsked && !now.Before(e.takenDue) {
		e.takenAsked = true
		var leaders []int
		for _, w := range e.workers {
			leaders = append(leaders, w.process.PID())
		}
		go func() { e.inbox.postReport(findClosed(asked, leaders)) }()
	}
}

// takesNoMore leaves the addresses of a worker that has ended, or is about to accept
// no more, to the next one in its slot.
func (e *executor) takesNoMore(w *worker) {
	e.logError("cannot steer new connections", e.sockets.Ended(w.id))
}

// findClosed looks for the sockets in the workers' processes, and in those that no worker
// leads. leaders are all workers.
func findClosed(asked map[*worker]awaited, leaders []int) closedFound {
	began := time.Now()
	found := closedFound{closed: map[*worker]awaited{}}
	for w, on := range asked {
		maps.DeleteFunc(on, func(inode uint32, at *takenAt) bool { return at.has(inode) })
		leader := w.process.PID()
		maps.DeleteFunc(on, func(inode uint32, _ *takenAt) bool { // another process may have it, or under another number
			held, known := process.Held([]int{leader}, []uint32{inode})[leader]
			return !known || len(held) > 0 || process.HeldOutside(leaders, inode)
		})
		found.closed[w] = on
	}
	found.took = time.Since(began)
	return found
}

func (e *executor) noteClosed(f closedFound, now time.Time) {
	e.takenAsked, e.takenDue = false, now.Add(counterShare*f.took)
	for w, all := range f.closed {
		for inode, at := range all {
			if w.taken[inode] == at { // else it has taken it again meanwhile
				gone, err := e.sockets.Closed(w.id, inode)
				e.notTaken(gone, err)
			}
		}
	}
}

// notTaken tells of the learned listeners that no worker has any more.
func (e *executor) notTaken(gone []sockets.Listener, err error) {
	e.logError("cannot reset what waits where nobody listens any more", err)
	e.unlearned(gone, "the workers that listened there have closed it, or ended")
}
