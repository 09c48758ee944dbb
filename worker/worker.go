package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

// messageQueue is how many messages wait for a slow receiver of Messages.
const messageQueue = 256

// Worker is this process as a worker. Its methods may be called on any goroutine.
type Worker struct {
	page     *ipc.Page
	channel  *channel // nil if there is none
	drain    drainState
	messages chan json.RawMessage
	notify   string // NOTIFY_SOCKET, used if there is no channel
	ready    sync.Once
	prepared sync.Map // of *sync.Once, by server
	shedder  shedder
	handoff  handoff

	limit    int64         // of open connections, at the start; 0: none
	refusals chan struct{} // a token for each refused connection that is being answered

	passed []string // addresses of the passed sockets, as endpoint's

	err error // what was passed and is invalid, for Listen to return

	mu        sync.Mutex
	sockets   []ipc.Socket // passed and not yet taken
	listeners []*listener
}

// New makes this process a worker. A program calls it once, early in main. It
// removes from the environment what is for this process alone, so that its children
// do not use it; FORKD_APP, FORKD_SLOT, FORKD_SLOTS and FORKD_GENERATION stay. From
// now on SIGTERM and SIGINT drain, and a second one ends the process at once.
//
// New never fails: without a master this is a plain program, and Listen returns an
// error for invalid descriptors or variables.
//
// It sets GOMAXPROCS to the processors divided by the slots, rounded up, unless
// GOMAXPROCS is in the environment. (fasthttp's own prefork sets 1.)
func New() *Worker {
	passed, err := ipc.Inherited(os.LookupEnv, os.Getpid())
	notify := os.Getenv(ipc.EnvNotifySocket)
	for _, key := range []string{
		ipc.EnvListenFDs, ipc.EnvListenPID, ipc.EnvListenFDNames, ipc.EnvChannelFD, ipc.EnvPageFD,
		ipc.EnvMaxConnections,
	} {
		os.Unsetenv(key)
	}
	if _, set := os.LookupEnv("GOMAXPROCS"); !set && passed.Slots > 0 {
		runtime.GOMAXPROCS(procs(runtime.GOMAXPROCS(0), passed.Slots))
	}
	w := start(passed, err, notify)
	go w.handleSignals(listenSignals(os.Getenv(ipc.EnvStopSignal)), os.Getppid())
	return w
}

// procs is GOMAXPROCS of each of these workers.
func procs(cpus, slots int) int { return max(1, (cpus+slots-1)/slots) }

// start is New without the changes to the process.
func start(passed ipc.Passed, err error, notify string) *Worker {
	w := &Worker{
		page:     new(ipc.Page),
		drain:    newDrainState(),
		messages: make(chan json.RawMessage, messageQueue),
		notify:   notify,
		err:      err,
		limit:    int64(passed.MaxConnections),
		refusals: make(chan struct{}, maxRefusals),
		handoff:  handoff{replyWithin: replyTimeout, successor: make(chan struct{})},
	}
	for _, s := range passed.Sockets {
		if w.setCloseOnExec(s.FD) {
			w.passed = append(w.passed, endpoint(boundAt(s.FD)))
		}
	}
	w.sockets = passed.Sockets
	if passed.Page >= 0 && w.setCloseOnExec(passed.Page) {
		page, err := ipc.OpenPage(passed.Page)
		if err == nil {
			w.page = page
			page.Attach(len(passed.Sockets) > 0)
		}
		w.fail(err)
		unix.Close(passed.Page)
	}
	if passed.Channel >= 0 && w.setCloseOnExec(passed.Channel) {
		c, err := openChannel(passed.Channel)
		w.fail(err)
		if err == nil {
			w.channel = c
			go w.read()
			w.tell(ipc.Hello{Version: ipc.ProtocolVersion, Handoff: true})
			if passed.Watchdog > 0 {
				go w.pulse(passed.Watchdog / 2)
			}
		}
	}
	return w
}

// pulse tells the master that this process runs, until the channel is closed. Half of the
// watchdog's time is what sd_watchdog_enabled(3) recommends.
func (w *Worker) pulse(interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			w.tell(ipc.Pulse{})
		case <-w.channel.closed.Done():
			return
		}
	}
}

// setCloseOnExec keeps a passed descriptor from children, and reports whether it is
// open.
func (w *Worker) setCloseOnExec(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	if err != nil {
		w.fail(fmt.Errorf("cannot use passed descriptor %d: %w", fd, err))
	}
	return err == nil
}

func (w *Worker) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// Ready says that this worker serves from now on: on the channel, or on NOTIFY_SOCKET
// (sd_notify(3)). Only the first call counts. The Serve functions call it when their
// server begins to accept.
func (w *Worker) Ready() {
	w.ready.Do(func() {
		switch {
		case w.channel != nil:
			w.tell(ipc.Ready{})
		case w.notify != "": // errors are ignored: the receiver has a timeout of its own
			if c, err := net.Dial("unixgram", w.notify); err == nil {
				_, _ = c.Write([]byte("READY=1"))
				c.Close()
			}
		}
	})
}

// Draining is closed when this worker is to stop accepting and to finish by
// Deadline. Handlers of long-lived and hijacked connections watch it.
func (w *Worker) Draining() <-chan struct{} { return w.drain.begun }

// Reason is why the worker drains: "roll", "scale", "recycle" or "stop"; "" if it
// does not drain.
func (w *Worker) Reason() string { return w.drain.get().reason }

// Deadline is when a draining worker will be killed; zero if it does not drain.
func (w *Worker) Deadline() time.Time { return w.drain.get().deadline }

// Request counts a request and reports whether the worker drains, so that the
// response should close its connection. Serve packages call it per request.
func (w *Worker) Request() (draining bool) {
	w.page.Request()
	return w.drain.active()
}

// RequestOn counts a request and reports whether its response should be the last of
// the connection, because the worker drains and can't hand it over, or sheds it. Serve
// packages call it per request, in place of Request, before the response is sent. conn
// is called only during a drain or a shed; for its result see [Mark].
func (w *Worker) RequestOn(conn func() net.Conn) (last bool) {
	w.page.Request()
	flags := w.drain.flags.Load()
	if flags&(flagDraining|flagShedding) == 0 {
		return false
	}
	nc := conn()
	return flags&flagDraining != 0 && !keeps(nc) || isShed(nc)
}

// Counters returns what this worker has counted so far.
func (w *Worker) Counters() ipc.Counters { return w.page.Counters() }

// Send sends v as JSON, through the master, to every other worker of the app that has
// a channel. They get it from Messages, in the order in which one worker sent. A
// worker that does not read misses what is beyond the master's buffer.
//
// It fails without a channel, for a message over 1 MiB, and for one with a "cmd" that
// begins with FORKD_ or NODE_. The master reads up to 1,000 messages and 8 MiB a
// second from a worker; beyond that, Send blocks.
func (w *Worker) Send(v any) error {
	if w.channel == nil {
		return errors.New("cannot send message: no master")
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot send message: %w", err)
	}
	return w.channel.write(ipc.App(raw))
}

// Messages delivers what other workers of the app Send and what `forkd send` sends.
// It buffers some; further ones are dropped, so that they never delay the master's
// own messages. It is never closed.
func (w *Worker) Messages() <-chan json.RawMessage { return w.messages }

// OnShed sets a callback for when the master wants the worker to close n long-lived
// connections, before the worker does so itself: f may end them in their own protocol
// (a WebSocket with a close frame). A shed over some seconds comes in portions, one in
// each second.
//
// The worker waits for a second. Of the connections that were open when the shed
// came, all that have closed by then count. For the rest the worker takes those that
// were accepted first. On an HTTP connection the next response is the last
// (Connection: close; GOAWAY in HTTP/2); one that has been idle for a second is
// closed. A response is never cut: f must end one that is endless. A hijacked
// connection is cut if it is still open after the time of the whole shed and a
// second; without an f, at once.
//
// f is called on a goroutine of its own, one call at a time; numbers that come while
// it runs are added up. A drain ends a shed. With drain.shed_per_second the master
// also sends sheds during a drain: then only f is called, with an equal portion each
// second, to close connections that clients would keep beyond the deadline.
func (w *Worker) OnShed(f func(n int)) {
	w.shedder.mu.Lock()
	defer w.shedder.mu.Unlock()
	w.shedder.onShed = f
}

// Prepare runs wrap once for each server, however often it is served. Serve packages
// call it to wrap a server's handler and callbacks.
func (w *Worker) Prepare(server any, wrap func()) {
	once, _ := w.prepared.LoadOrStore(server, new(sync.Once))
	once.(*sync.Once).Do(wrap)
}
