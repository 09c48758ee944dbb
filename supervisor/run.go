package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/adopt"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/systemd"
)

// Shim must be the first thing that main does. A worker is started through a
// copy of the master's own program, which becomes the worker in here and never
// returns.
func Shim() { process.Shim() }

// Output is where a master writes: its workers' lines to Stdout, its own to
// Stderr.
type Output struct{ Stdout, Stderr *os.File }

// UsageError says that a configuration can't be run, however often one tries:
// exit code 2.
type UsageError struct{ Text string }

func (e *UsageError) Error() string { return e.Text }

// Run is the master: it returns when the app has ended, nil for exit code 0.
// Canceling ctx is a graceful stop. Errors are one line for a person; a
// *UsageError is exit code 2, any other 1.
//
// Run keeps the thread that it is called on, which forks the workers: let that
// be the main one (runtime.LockOSThread in an init function), as a worker's
// parent-death signal comes when that thread ends. There is one Run at a time in
// a program, and while it lasts the program's children are its own to reap. It
// lowers GOMAXPROCS, and makes the threads that it may need: a limit on processes
// that is reached later then ends nothing.
func Run(ctx context.Context, cfg Config, out Output) error {
	killAt := time.Now().Add(cfg.Drain.Timeout) // of what a killed master has left
	if err := process.CheckProc(); err != nil {
		return err
	}
	first, err := prepareRelease(cfg)
	if err != nil {
		return asUsage(err)
	}
	if err := checkLimits(cfg, cfg.Workers, 0); err != nil {
		first.close()
		return err
	}
	process.StartThreads()
	dir, err := control.Create(cfg.Name, cfg.ControlGroup)
	if err != nil {
		first.close()
		return err
	}
	o := newOpened(cfg, dir, first, out)
	defer o.close()
	if err := o.open(ctx, killAt); errors.Is(err, adopt.ErrStopped) {
		o.log.Info("stopped while waiting for the workers of a killed master: they finish what they have")
		return nil
	} else if err != nil {
		return err
	}

	e := o.executor
	if _, managed := systemd.Unit(); managed {
		e.askStopTime(ctx, cfg) // before children are reaped: it has one of its own
	}
	e.children = process.New()
	e.children.Remember(o.records)
	l := newLoop(pool.New(cfg.core(), e.slots, cfg.Workers), o.log, e.startedAt)
	l.executor, e.events, e.inbox, e.pool = e, l.events, l.inbox, l.pool
	l.signals = o.signals
	l.manager = manager{notifier: o.notifier, alive: o.notifier.Watchdog()}
	stopped := context.AfterFunc(ctx, func() { l.postFact(pool.StopRequested{}) })
	defer stopped()

	// The workers are forked on this thread, for good; the loop has another.
	forking, end := context.WithCancel(context.Background())
	var quit pool.AppExited
	go func() {
		defer end()
		closeControl := o.serveControl(l)
		warn(o.log, cfg)
		o.log.Info("running", "app", cfg.Name, "workers", cfg.Workers, "listen", e.addresses(), "pid", os.Getpid())
		agent := startAgent(cfg, o.dir.Dir, l, e)
		go e.watchDaemons()
		go e.watchLeftovers(o.left)
		quit = l.run()
		agent.leave()
		if quit.Code == 0 {
			e.sockets.CloseListeners() // there will be no successor
		}
		closeControl()
		e.endAdopted(cfg.StopSignal)
	}()
	e.children.Serve(forking)
	e.children.Close()
	o.log.Info("ended", "code", quit.Code, "why", quit.Why)
	switch quit.Code {
	case 0:
		return nil
	case 2:
		return &UsageError{quit.Why}
	}
	return errors.New(quit.Why)
}

// asUsage makes a UsageError of a command or directory that is not there.
func asUsage(err error) error {
	var command *process.CommandError
	if errors.As(err, &command) || errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return &UsageError{err.Error()}
	}
	return err
}

// warn logs the warnings of a configuration.
func warn(log *slog.Logger, cfg Config) {
	for _, text := range cfg.Warnings {
		log.Warn(text)
	}
}

// askStopTime finds out how long the service manager allows a stop to take.
func (e *executor) askStopTime(ctx context.Context, cfg Config) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if allowed, err := systemd.StopTimeout(ctx); err == nil {
		e.stopWithin = allowed
	}
	e.checkStopTime(cfg)
}

// serveControl answers the control socket and the health check until the function
// that it returns is called.
func (o *opened) serveControl(l *loop) func() {
	ctx, cancel := context.WithCancel(context.Background())
	b := &backend{loop: l, meter: meter{usage: process.NewUsage()}}
	var servers sync.WaitGroup
	if o.health != nil {
		servers.Go(func() {
			if err := control.ServeHealth(ctx, o.health, b); err != nil {
				o.log.Error("the health check has failed", "why", err)
			}
		})
	}
	servers.Go(func() {
		if err := control.Serve(ctx, o.dir, b, o.cfg.ControlGroup); err != nil {
			o.log.Error("the control socket has failed", "why", err)
		}
	})
	return func() {
		cancel()
		servers.Wait()
	}
}

// adoptedTimeout is how long processes that had left their worker's group have to end
// after the app: they hold nobody's connections.
const adoptedTimeout = time.Second

// endAdopted ends what outlived its worker outside of its group.
func (e *executor) endAdopted(sig syscall.Signal) {
	if n := e.children.KillAdopted(sig); n > 0 {
		e.log.Warn("ending what workers had left behind", "processes", n)
	}
	timeout := time.NewTimer(adoptedTimeout)
	defer timeout.Stop()
	again := time.NewTicker(adoptedTimeout / 50)
	defer again.Stop()
	for len(e.children.Adopted()) > 0 {
		select {
		case <-timeout.C:
			if sig == syscall.SIGKILL {
				e.log.Error("giving up on what survives SIGKILL", "pids", e.children.Adopted())
				return
			}
			sig = syscall.SIGKILL
			timeout.Reset(adoptedTimeout)
		case <-again.C:
		}
		if sig == syscall.SIGKILL { // and what its victims leave in turn
			e.children.KillAdopted(sig)
		}
	}
}
