package process

import (
	"runtime"
	"sync"
)

// Tasks is the most threads that a master comes to, so what of a limit on
// processes is its own. They run Go code (maxProcs), are the runtime's, signals',
// the main one and the network poller's (6), or may be in system calls that
// block: the loop, the reaper, a burial, starts (4), the two outputs, a
// preparation, a look at sockets, at who has a port, at figures (2), at leftovers,
// at daemons, the reports to systemd and Redis, a close (3), the memory's return;
// and some are over, for calls that are only short.
//
// ShimTasks is what a start takes until the program runs.
const (
	Tasks     = 33
	ShimTasks = 5

	maxProcs = 4
	idle     = Tasks - 4 // beside those that are busy at the start
)

// StartThreads has the runtime make all the threads that this process may need,
// while it can be refused. It would make them when they are needed, and end the
// program where it can't ("newosproc"). It keeps them: it frees only those whose
// goroutine ends locked. Called once, before anything is started; whatever may
// block a thread later is bounded by what they are for.
func StartThreads() {
	runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), maxProcs))
	var all, ended sync.WaitGroup
	all.Add(idle)
	for range idle {
		ended.Go(func() {
			runtime.LockOSThread() // from here on it has a thread to itself
			defer runtime.UnlockOSThread()
			all.Done()
			all.Wait()
		})
	}
	ended.Wait()
}
