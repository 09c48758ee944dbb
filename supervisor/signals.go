package supervisor

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
)

// listenForSignals takes over every signal of docs/contract.md, Signals to the master, so that
// none has its default effect, for good: the last lines may meet SIGPIPE.
func listenForSignals() <-chan os.Signal {
	c := make(chan os.Signal, 64)
	signal.Notify(c,
		syscall.SIGUSR2, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT,
		syscall.SIGUSR1, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGWINCH, syscall.SIGPIPE)
	return c
}

// sameRequest is how long after a signal another one is the same request. A launcher
// that forwards ^C (npx, uv, timeout) sends what the terminal has sent already.
const sameRequest = 500 * time.Millisecond

// hangUpTime is how long after the end of the terminal SIGHUP is about that: the kernel
// sends it to the session's leader and the foreground group, a shell to its jobs.
const hangUpTime = 2 * time.Second

func (l *loop) signal(sig os.Signal) {
	name := unix.SignalName(sig.(syscall.Signal))
	l.events.By = name // os/signal does not tell whose it is
	defer func() { l.events.By = "" }()
	switch sig {
	case syscall.SIGUSR2:
		l.log.Info("roll requested", "by", name)
		l.requestRoll(false)
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT:
		now := l.pool.Stopping()
		switch {
		case now && time.Since(l.stoppingAt) < sameRequest:
			l.log.Info("stopping already", "by", name)
			return
		case now:
			l.log.Warn("stopping at once", "by", name)
		case l.executor.hasTerminal():
			l.log.Info("stopping", "by", name, "why", "workers finish; once more stops at once")
		default:
			l.log.Info("stopping", "by", name)
		}
		l.step(pool.StopRequested{Now: now})
	case syscall.SIGPIPE:
	case syscall.SIGWINCH:
		if !l.executor.hasTerminal() { // with one, it says that a window has changed
			l.log.Info("draining all workers: HUP or USR2 brings them back", "by", name)
			l.step(pool.StandbyRequested{})
		}
	case syscall.SIGHUP:
		l.seeTerminal(time.Now())
		if !l.hungUpAt.IsZero() && time.Since(l.hungUpAt) < hangUpTime {
			l.log.Info("nothing is reloaded: the terminal has closed", "by", name)
			return
		}
		l.log.Info("reload requested", "by", name)
		l.requestRoll(true)
	case syscall.SIGUSR1:
		l.executor.reopenLogs()
	case syscall.SIGTTIN:
		l.scaleBy("+1", name)
	case syscall.SIGTTOU:
		l.scaleBy("-1", name)
	}
}

func (l *loop) scaleBy(change control.Scale, name string) {
	if _, err := l.scale(change, name); err != nil {
		l.log.Warn("nothing has changed", "by", name, "why", err)
	}
}

func (l *loop) seeTerminal(now time.Time) {
	if !l.hadTerminal || l.executor.hasTerminal() {
		return
	}
	l.hadTerminal, l.hungUpAt = false, now
	const text = `the terminal has closed: the app goes on; what it writes is in forkd logs, and nowhere with log.mode = "inherit"`
	l.log.Warn(text)
	l.events.Add(control.Event{Type: control.EventTerminalClosed, Reason: text})
}
