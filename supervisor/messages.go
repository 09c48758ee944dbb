package supervisor

import (
	"context"
	"time"

	"github.com/forkd/forkd/internal/adopt"
	"github.com/forkd/forkd/internal/capture"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/ipc"
)

// A message is what reaches the loop from another goroutine: all kinds are in this
// file, but for signals, which have a channel of their own. loop.handle says what
// follows from each.
//
//sumtype:decl
type message interface{ message() }

// A report is a message of the executor's goroutines to the executor. What follows
// from each is in executor.note.
//
//sumtype:decl
type report interface{ report() }

type (
	// fact is an event for the pool that needs nothing else.
	fact struct{ event pool.Event }
	// reported brings a report to the executor.
	reported struct{ report }

	// request is what a client of the control API asks for, by ask: each method of backend
	// (control.Backend) says what it does.
	request struct{ do func() }
)

func (fact) message()     {}
func (reported) message() {}
func (request) message()  {}

type (
	// prepared is a generation's release, by executor.prepare; before is how many
	// workers the configuration before it wanted.
	prepared struct {
		generation int
		release    *release
		before     int
	}
	// started is a worker that runs its program, by executor.start. uncaptured is why its
	// calls can't be captured.
	started struct {
		worker     *worker
		uncaptured string
	}
	// exited is a worker's end, by the reaper. holder has the address that it could not
	// bind; nil: nobody is known to.
	exited struct {
		worker *worker
		exit   process.Exit
		holder *sockets.Holder
	}
	// called is a bind(2) or listen(2) of a worker's program, which waits for the answer.
	// late: it has been held for long enough. joined: by executor.besideLeftovers, the cookies
	// of the sockets beside which it goes on.
	called struct {
		worker pool.ID
		call   capture.Call
		answer chan capture.Answer
		held   chan *claim // what it waits for
		late   bool
		joined []uint64
	}
	// unclaimed is a claim whose socket will not listen, by executor.waitFor.
	unclaimed struct{ claim *claim }
	// memoryFound is what workers use, by executor.lookAtMemory.
	memoryFound struct{ figures map[int]process.Figures }
	// stallsFound is which connections workers have that seem to be stalled, by
	// executor.stalls.
	stallsFound struct {
		asked []*worker
		held  map[int][]uint32 // by pid
		at    time.Time
		took  time.Duration
	}
	// closedFound is the learned sockets that workers have taken and have no more, by
	// executor.lookAtTaken.
	closedFound struct {
		closed map[*worker]awaited
		took   time.Duration
	}
	// said is an application's message from a worker to all others.
	said struct {
		from pool.ID
		line ipc.App
	}
	// queuePolled is one poll of the sockets of a slot that leaves, by
	// executor.leave, which ends when done is closed.
	queuePolled struct {
		leave    pool.Leave
		halfOpen bool
		err      error
		done     chan struct{}
	}
	// pathUnlinked is the path of a slot's unix socket that has gone, by
	// executor.watchPaths.
	pathUnlinked struct{ slot int }
	// holdersFound names who else listens on the app's ports, by
	// executor.nameOthers.
	holdersFound struct {
		others  []sockets.Other
		holders map[uint64]sockets.Holder
	}
	// daemonsFound is all daemons that live, by executor.watchDaemons; see
	// executor.noteDaemons.
	daemonsFound struct {
		daemons []*process.Orphan
		oldest  uint64
		shared  bool
	}
	// leftoversFound is which processes of a killed master have come and ended, by
	// adopt.Leftovers.Watch.
	leftoversFound struct {
		found, ended []*adopt.Leftover
	}
	// directoryFound is where the configured directory leads, by executor.lookAtDirectory;
	// "": nowhere.
	directoryFound struct {
		release   *release
		directory string
	}
	// runtimeChecked is what was made again in the runtime directory, by
	// executor.keepRuntimeDir. failed is set when something can't be, for the first
	// time.
	runtimeChecked struct {
		restored []string
		failed   string
	}
)

func (prepared) report()       {}
func (started) report()        {}
func (exited) report()         {}
func (called) report()         {}
func (unclaimed) report()      {}
func (memoryFound) report()    {}
func (stallsFound) report()    {}
func (closedFound) report()    {}
func (said) report()           {}
func (queuePolled) report()    {}
func (pathUnlinked) report()   {}
func (holdersFound) report()   {}
func (daemonsFound) report()   {}
func (leftoversFound) report() {}
func (directoryFound) report() {}
func (runtimeChecked) report() {}

// inbox is where messages go.
type inbox struct {
	posts chan message
	done  chan struct{} // closed when nobody reads any more
}

func newInbox() *inbox { return &inbox{posts: make(chan message), done: make(chan struct{})} }

// post hands a message to the loop, from any goroutine but the loop's own. It reports
// false if the loop has ended.
func (b *inbox) post(m message) bool {
	select {
	case b.posts <- m:
		return true
	case <-b.done:
		return false
	}
}

func (b *inbox) postFact(ev pool.Event) { b.post(fact{ev}) }

func (b *inbox) postReport(r report) bool { return b.post(reported{r}) }

type nothing struct{}

// ask has the loop call f, for a client that still waits, and returns the answer.
func ask[T any](ctx context.Context, l *loop, f func() (T, error)) (none T, err error) {
	type result struct {
		value T
		err   error
	}
	answer := make(chan result, 1)
	go l.post(request{func() {
		if ctx.Err() == nil {
			l.events.By = control.Caller(ctx)
			value, err := f()
			answer <- result{value, err}
		}
	}})
	select {
	case r := <-answer:
		return r.value, r.err
	case <-l.done:
		return none, errStopped
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// rollWaiter is for those who wait for the end of a roll, or of a worker's replacement,
// however many.
type rollWaiter struct {
	generation int            // 0: there will be none
	ended      chan struct{}  // closed by the loop
	result     pool.RollEnded // not to be read before
}
