package supervisor

import (
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
)

// takenGrace is how long a worker has, from when it is ready, to listen where the one before
// it in its slot did.
const takenGrace = 2 * time.Second

// takenAt is where a worker's process has got a socket of its slot's.
type takenAt struct{ pid, fd int }

// has reports whether the socket is still there.
func (at takenAt) has(inode uint32) bool {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", at.pid, at.fd))
	return err == nil && link == fmt.Sprintf("socket:[%d]", inode)
}

// awaited is a worker's learned sockets on which connections wait, by inode.
type awaited map[uint32]takenAt

// lookAtTaken finds out whether workers still listen on what they have told of: a worker may
// close a port, and its successor may not open it. Connections there would wait in vain.
func (e *executor) lookAtTaken(now time.Time) {
	if len(e.learned) == 0 {
		return
	}
	asked := map[*worker]awaited{}
	for _, w := range e.workers {
		if !w.care.ready {
			continue
		}
		if now.Sub(w.care.readyAt) > takenGrace {
			gone, err := e.sockets.Passed(w.id.Slot)
			e.notTaken(gone, err)
		}
		for _, inode := range e.sockets.Awaited(w.id) {
			if asked[w] == nil {
				asked[w] = awaited{}
			}
			asked[w][inode] = w.taken[inode]
		}
	}
	if len(asked) > 0 && !e.takenAsked && !now.Before(e.takenDue) {
		e.takenAsked = true
		go func() { e.inbox.postReport(findClosed(asked)) }()
	}
}

// findClosed looks for the sockets in the workers' processes.
func findClosed(asked map[*worker]awaited) closedFound {
	began := time.Now()
	found := closedFound{closed: map[pool.ID][]uint32{}}
	for w, on := range asked {
		maps.DeleteFunc(on, func(inode uint32, at takenAt) bool { return at.has(inode) })
		leader := w.process.PID()
		for inode := range on { // another process may have it, or under another number
			if held, known := process.Held([]int{leader}, []uint32{inode})[leader]; known && len(held) == 0 {
				found.closed[w.id] = append(found.closed[w.id], inode)
			}
		}
	}
	found.took = time.Since(began)
	return found
}

// noteClosed steers round the workers that have closed a learned socket.
func (e *executor) noteClosed(f closedFound, now time.Time) {
	e.takenAsked, e.takenDue = false, now.Add(counterShare*f.took)
	for id, all := range f.closed {
		for _, inode := range all {
			gone, err := e.sockets.Closed(id, inode)
			e.notTaken(gone, err)
		}
	}
}

// notTaken tells of the learned listeners that no worker has any more.
func (e *executor) notTaken(gone []sockets.Listener, err error) {
	if err != nil {
		e.log.Error("cannot reset what waits where nobody listens any more", "why", err)
	}
	e.unlearned(gone, "the workers that listened there have closed it, or ended")
}
