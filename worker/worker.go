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

// messageQueue is how many messages wait for a program that is slow to take
// them from Messages.
const messageQueue = 256

// Worker is this process as a worker. Its methods are for any goroutine.
type Worker struct {
	page     *ipc.Page
	channel  *channel // nil without a master's
	orders   orders
	messages chan json.RawMessage
	notify   string // NOTIFY_SOCKET, for a supervisor that gave no channel
	ready    sync.Once
	prepared sync.Map // of *sync.Once, by server
	shedding shedding
	all      sets

	limit    int64         // of connections open at a time, at the start; 0: none
	refusals chan struct{} // a token for each connection that is being turned away

	// What was passed and makes no sense, for the first Listen to return.
	wrong error

	mu      sync.Mutex
	sockets []ipc.Socket // passed and not yet claimed
}

// New makes this process a worker. A program calls it once, early in main. It
// takes what the master passed out of the environment, so that programs which it
// starts itself do not take it for theirs; FORKD_APP, FORKD_SLOT, FORKD_SLOTS and
// FORKD_GENERATION stay. From now on SIGTERM and SIGINT drain, and a second one
// ends the process at once.
//
// It never fails: without a master this is a plain program, and what a master
// passed that makes no sense is reported by Listen.
//
// It sets GOMAXPROCS to the processors divided by the slots, rounded up, so that
// the workers together use the machine once; GOMAXPROCS in the environment wins.
// (fasthttp's own prefork sets 1, whatever the number of children.)
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
	go w.obey(listenSignals(os.Getenv(ipc.EnvStopSignal)), os.Getppid())
	return w
}

// procs is how many processors one worker of so many uses.
func procs(cpus, slots int) int { return max(1, (cpus+slots-1)/slots) }

// start is New without what belongs to the whole process.
func start(passed ipc.Passed, wrong error, notify string) *Worker {
	w := &Worker{
		page:     new(ipc.Page),
		orders:   newOrders(),
		messages: make(chan json.RawMessage, messageQueue),
		notify:   notify,
		wrong:    wrong,
		limit:    int64(passed.MaxConnections),
		refusals: make(chan struct{}, maxRefusals),
		shedding: shedding{more: make(chan struct{}, 1)},
	}
	for _, s := range passed.Sockets {
		w.keepFromChildren(s.FD)
	}
	w.sockets = passed.Sockets
	if passed.Page >= 0 && w.keepFromChildren(passed.Page) {
		page, err := ipc.OpenPage(passed.Page)
		if err == nil {
			w.page = page
			page.Attach()
		}
		w.blame(err)
		unix.Close(passed.Page)
	}
	if passed.Channel >= 0 && w.keepFromChildren(passed.Channel) {
		c, err := openChannel(passed.Channel)
		w.blame(err)
		if err == nil {
			w.channel = c
			go w.read()
			if err := c.write(ipc.Hello{Version: ipc.ProtocolVersion}); err != nil {
				w.masterGone()
			}
		}
	}
	return w
}

// keepFromChildren sets close-on-exec on a passed descriptor and reports whether
// it is open at all.
func (w *Worker) keepFromChildren(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	if err != nil {
		w.blame(fmt.Errorf("cannot use passed descriptor %d: %w", fd, err))
	}
	return err == nil
}

func (w *Worker) blame(err error) {
	if w.wrong == nil {
		w.wrong = err
	}
}

// Ready tells the supervisor that this worker serves from now on: the master by
// the channel, or whoever set NOTIFY_SOCKET by sd_notify(3). Only the first call
// counts. The Serve functions call it when their server begins to accept.
func (w *Worker) Ready() {
	w.ready.Do(func() {
		switch {
		case w.channel != nil:
			if err := w.channel.write(ipc.Ready{}); err != nil {
				w.masterGone()
			}
		case w.notify != "":
			notifyReady(w.notify)
		}
	})
}

// notifyReady is sd_notify(3) with READY=1. Whoever waits for it gives up by
// itself, so there is nobody to tell of an error.
func notifyReady(socket string) {
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte("READY=1"))
}

// Draining is closed when this worker is to stop accepting and to finish what it
// has by Deadline. Handlers of long-lived and hijacked connections watch it.
func (w *Worker) Draining() <-chan struct{} { return w.orders.begun }

// Reason is why the worker drains: "roll", "scale", "recycle" or "stop"; "" as
// long as it does not.
func (w *Worker) Reason() string { return w.orders.current().reason }

// Deadline is when a draining worker will be killed; zero as long as it does not
// drain.
func (w *Worker) Deadline() time.Time { return w.orders.current().deadline }

// Request counts a request and reports whether the worker drains, so that the
// response should close its connection. Serve packages call it per request.
func (w *Worker) Request() (draining bool) {
	w.page.Request()
	return w.orders.draining()
}

// RequestOn counts a request and reports whether its response should be the last
// of its connection: the worker drains, or the connection is one of those that
// the master wants shed. Serve packages call it per request, in place of Request,
// when the response can still say so. conn is called only when the answer depends
// on it; what it returns is as for [Mark].
func (w *Worker) RequestOn(conn func() net.Conn) (last bool) {
	w.page.Request()
	state := w.orders.state.Load()
	return state != 0 && (state&drains != 0 || leaves(conn()))
}

// Counters is what this worker has counted so far.
func (w *Worker) Counters() ipc.Counters { return w.page.Counters() }

// Send sends v, encoded as JSON, as an application's message: through the master
// to every other worker of the app that has a channel. They
// get it from Messages, in the order in which one worker sent; a worker that does
// not read misses what the master can't keep for it. The sender gets nothing back.
//
// It fails without a master's channel, and for what is over 1 MiB or has a "cmd"
// that begins with FORKD_ or NODE_. The master reads a worker's channel at up to
// 1,000 messages and 8 MiB a second; where more is sent, Send waits.
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

// Messages delivers the application's messages: what other workers of the app
// Send, and what `forkd send` sends to one or all. Some wait for a slow receiver;
// beyond those, further ones are dropped: the master's own never wait behind
// them. It is never closed; without a master nothing comes.
func (w *Worker) Messages() <-chan json.RawMessage { return w.messages }

// OnShed sets what is told when the master wants the worker to shed n of its
// long-lived connections: before the worker does so itself, so that f may end them
// politely (a WebSocket with a close frame). A shed that is to take some seconds
// comes in portions, one in each second, at a random moment of it.
//
// The worker waits for a second. What has closed by then, of the connections that
// were open when the shed came and whoever closed it, counts. For the rest it
// chooses those that were accepted first. Of a connection that serves HTTP the next
// response is the last (Connection: close; GOAWAY in HTTP/2); one that has been
// idle for a second is closed. A response that is under way is never cut: one
// without an end is f's to end. A hijacked connection is cut if it is still there
// when it has had as long as the whole shed was to take, and a second. Without an
// f there is nobody to wait for, and hijacked connections are cut at once.
//
// f is called on a goroutine of its own, one call at a time: what is asked for
// while it runs comes in one call after. A drain ends a shed. While the worker
// drains the master asks for more where drain.shed_per_second is set: then f alone
// is told, with an equal portion each second, to close connections that clients
// would keep beyond the deadline; without an f that is ignored.
func (w *Worker) OnShed(f func(n int)) {
	w.shedding.mu.Lock()
	defer w.shedding.mu.Unlock()
	w.shedding.f = f
}

// Prepare runs wrap once for each server, however often it is served. Serve
// packages call it to put themselves around a server's handler and hooks.
func (w *Worker) Prepare(server any, wrap func()) {
	once, _ := w.prepared.LoadOrStore(server, new(sync.Once))
	once.(*sync.Once).Do(wrap)
}
