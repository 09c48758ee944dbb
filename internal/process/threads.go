package process

import (
	"runtime"
	"sync"
)

// Tasks is the most threads of a master (docs/decisions/0032): they run Go code (maxProcs),
// belong to runtime, signals, main function and network poller (6), or may be in a blocking
// system call: one each of the loop, reaper, release, preparation, queries of sockets and
// of a port's holder, leftovers, daemons, systemd, Redis, return of memory; two outputs and
// queries of figures; two looks at calls of workers; three closes; four starts. The rest is for short calls.
const (
	Tasks = 35

	maxProcs = 4
	idle     = Tasks - 4 // without those that are busy at the start
)

// StartThreads has the runtime create all threads that this process may need. Created
// later, a refused thread would end the program ("newosproc"). The runtime keeps them: it
// ends only threads whose goroutine ends locked. Call it once, before any start. New code
// that may block a thread must be added to Tasks.
func StartThreads() {
	runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), maxProcs))
	var all, ended sync.WaitGroup
	all.Add(idle)
	for range idle {
		ended.Go(func() {
			runtime.LockOSThread() // each goroutine takes a thread
			defer runtime.UnlockOSThread()
			all.Done()
			all.Wait()
		})
	}
	ended.Wait()
}
