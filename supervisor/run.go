package supervisor

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/forkd/forkd/internal/adopt"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/process"
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
	if err := process.CheckProc(); err != nil {
		return err
	}
	killAt := time.Now().Add(cfg.Drain.Timeout)
	first, err := prepareRelease(cfg)
	if err != nil {
		return asUsage(err)
	}
	if err := checkLimits(cfg, cfg.Workers, 0); err != nil {
		first.close()
		return err
	}
	process.StartThreads()
	place, err := control.Create(cfg.Name, cfg.ControlGroup)
	if err != nil {
		first.close()
		return err
	}
	keep := false // for the next master, as when this one is killed: its records name workers that live
	defer func() {
		if !keep {
			place.Remove()
		}
	}()
	m := newMaster(cfg, place, out)
	defer m.close()
	if place.Unsure != "" {
		m.log.Warn("should the app's directory be removed, a second master of this name could start", "why", place.Unsure)
	}
	m.left, m.records, err = adopt.Find(place, killAt)
	if err != nil {
		m.log.Warn("cannot record the workers: should this master be killed, the next one will not know them", "why", err)
	}
	m.loop.signals = listenForSignals()
	err = m.open(ctx, first)
	keep = err != nil && m.left.Alive()
	if errors.Is(err, adopt.ErrStopped) {
		m.log.Info("stopped while waiting for the workers of a killed master: they finish what they have")
		return nil
	}
	if err != nil {
		return err
	}
	return m.run(ctx)
}

// asUsage makes a UsageError of an error that says that there is no such command
// or directory.
func asUsage(err error) error {
	var command *process.CommandError
	if errors.As(err, &command) || errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return &UsageError{err.Error()}
	}
	return err
}
