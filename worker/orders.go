package worker

import (
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
)

const (
	// fallbackDrain is how long a drain takes that no master has set a deadline
	// for: the default of drain.timeout.
	fallbackDrain = 30 * time.Second

	// announcement is how long a signal waits for the drain message. The master
	// writes the message first, so the wait is for this process's own reader.
	announcement = 100 * time.Millisecond

	// deathThroes is how long after the first sign of the master's death signals
	// are taken for those of its death. On a busy machine its threads take their
	// time to go.
	deathThroes = 5 * time.Second

	// sameWish is how long after the first signal others are deliveries of the same
	// wish: a service manager that signals every process of a unit, and the master
	// with it, has two signals arrive.
	sameWish = 500 * time.Millisecond
)

// What a worker is at, in orders.state.
const (
	drains uint32 = 1 << iota
	sheds
)

// order is the drain that a worker is under.
type order struct {
	reason   string // "": none
	began    time.Time
	deadline time.Time
	idle     time.Duration
	changed  <-chan struct{} // closed when another order takes its place
}

// orders is what a worker was told: nothing, then to drain, then perhaps to
// drain otherwise.
type orders struct {
	state     atomic.Uint32 // of drains and sheds: what the hot path asks
	begun     chan struct{} // closed with the first order
	announced chan struct{} // a token per message, for the signal that follows it

	mu      sync.Mutex
	now     order
	changed chan struct{}
}

func newOrders() orders {
	return orders{begun: make(chan struct{}), announced: make(chan struct{}, 4)}
}

// draining reports whether a drain has begun.
func (o *orders) draining() bool { return o.state.Load()&drains != 0 }

func (o *orders) current() order {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

// announce follows a drain message, which takes the place of an earlier one: a
// worker that drains for a roll may be told that the whole app stops.
func (o *orders) announce(m ipc.Drain) {
	o.mu.Lock()
	o.follow(m)
	o.mu.Unlock()
	select {
	case o.announced <- struct{}{}:
	default:
	}
}

// fallback drains where there is no message to follow. An earlier order stands.
func (o *orders) fallback() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.now.reason == "" {
		o.follow(ipc.Drain{
			Reason:   ipc.ReasonStop,
			Deadline: time.Now().Add(fallbackDrain),
			Idle:     ipc.DefaultIdle,
		})
	}
}

// follow is the one place where a drain begins or changes. The deadline came as
// a wall clock's; kept as a distance, it does not move when that clock is set.
func (o *orders) follow(m ipc.Drain) {
	now := time.Now()
	first := o.now.reason == ""
	if !first {
		close(o.changed)
	}
	if m.Reason == "" {
		m.Reason = ipc.ReasonStop
	}
	o.changed = make(chan struct{})
	o.now = order{
		reason:   m.Reason,
		began:    now,
		deadline: now.Add(time.Until(m.Deadline)),
		idle:     m.Idle,
		changed:  o.changed,
	}
	if first {
		o.state.Or(drains)
		close(o.begun)
	}
}

// listenSignals takes over the signals that ask for a drain: TERM, INT, and the
// one that the master is configured to send (FORKD_STOP_SIGNAL).
func listenSignals(configured string) <-chan os.Signal {
	asking := []os.Signal{syscall.SIGTERM, syscall.SIGINT}
	if s := unix.SignalNum("SIG" + configured); s != 0 {
		asking = append(asking, s)
	}
	signals := make(chan os.Signal, 4)
	for _, s := range asking {
		if !signal.Ignored(s) { // as nohup and a shell's background jobs do
			signal.Notify(signals, s)
		}
	}
	return signals
}

// obey follows signals for the life of the process. parent is who started it.
//
// A signal that a message has announced belongs to that message. The first other
// one drains, a second one, sameWish later, ends the process. But the parent-death signal
// (PR_SET_PDEATHSIG, prctl(2)) also reaches a worker that drains already, and
// must not cut it. The kernel sends one each time that a thread of the dying
// master leaves this process to a thread that still lives: so several may come,
// the first while the parent is still the old one.
func (w *Worker) obey(signals <-chan os.Signal, parent int) {
	var first, died time.Time
	for s := range signals {
		now := time.Now()
		announced := w.announced()
		if died.IsZero() && w.channel != nil && (w.channel.isGone() || os.Getppid() != parent || exiting(parent)) {
			died = time.Now()
		}
		dying := !died.IsZero() && time.Since(died) < deathThroes
		if second(first, now) && !announced && !dying {
			end(s)
		}
		if first.IsZero() {
			first = now
		}
		w.orders.fallback()
	}
}

// second reports whether a signal that comes now is another wish than the first,
// the zero time before there was one.
func second(first, now time.Time) bool { return !first.IsZero() && now.Sub(first) >= sameWish }

// announced reports whether a message came that has not had its signal yet.
func (w *Worker) announced() bool {
	select {
	case <-w.orders.announced:
		return true
	default:
	}
	if w.channel == nil {
		return false
	}
	wait := time.NewTimer(announcement)
	defer wait.Stop()
	select {
	case <-w.orders.announced:
		return true
	case <-w.channel.gone:
	case <-wait.C:
	}
	return false
}

// end lets a signal do what it does to a program that does not handle it.
func end(s os.Signal) {
	signal.Reset(s)
	_ = unix.Kill(os.Getpid(), s.(syscall.Signal))
	select {}
}
