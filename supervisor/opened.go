package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/forkd/forkd/internal/adopt"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/safefile"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/systemd"
)

// opened is what Run opens for the loop, and closes after it.
type opened struct {
	cfg      Config
	dir      *control.RuntimeDir
	keepDir  bool // its records name processes that live, for the next master
	stderr   *output.Writer
	stdout   *output.Writer // nil: workers inherit it
	log      *slog.Logger
	notifier *systemd.Notifier
	signals  <-chan os.Signal
	executor *executor
	left     *adopt.Leftovers
	records  *process.Records  // of the workers; nil: none can be kept
	pidFile  *safefile.PIDFile // nil: none is wanted
	health   net.Listener      // nil: metrics.address is not set
}

// newOpened takes dir and first over.
func newOpened(cfg Config, dir *control.RuntimeDir, first *release, out Output) *opened {
	o := &opened{cfg: cfg, dir: dir, stderr: output.New(out.Stderr), notifier: systemd.NewNotifier()}
	o.log = newLog(o.stderr)
	if cfg.Log.Mode != "inherit" {
		o.stdout = output.New(out.Stdout)
	}
	o.executor = &executor{
		app: cfg.Name, startedAt: time.Now(), log: o.log, output: o.stdout, logFiles: output.LogFiles(out.Stdout, out.Stderr), null: -1,
		releases: map[int]*release{1: first}, workers: map[pool.ID]*worker{}, leftovers: map[pool.ID]*adopt.Leftover{},
		daemons: newDaemons(), starts: make(chan struct{}, maxStarting), oom: process.NewOOMKills("/"), runtime: runtimeDir{dir: dir},
		slots: cfg.Workers, leaving: map[int]int{}, others: map[uint64]string{},
	}
	return o
}

// open takes what the workers will be given: the sockets above all. Leftovers of a
// killed master that hold a port have until killAt.
func (o *opened) open(ctx context.Context, killAt time.Time) (err error) {
	cfg, e := o.cfg, o.executor
	if o.dir.Unsure != "" {
		o.log.Warn("should the app's directory be removed, a second master of this name could start", "why", o.dir.Unsure)
	}
	if o.left, o.records, err = adopt.Find(o.dir, killAt); err != nil {
		o.log.Warn("cannot record the workers: should this master be killed, the next one will not know them", "why", err)
	}
	defer func() { o.keepDir = err != nil && o.left.Alive() }()
	o.signals = listenForSignals()
	if e.null, err = openNull(); err != nil {
		return err
	}
	passed, err := systemd.ListenFDs()
	if err != nil {
		return &UsageError{err.Error()}
	}
	own := make([]sockets.Passed, len(passed))
	for i, p := range passed {
		own[i] = sockets.Passed{FD: p.Number, Name: p.Name}
	}
	o.notifier.Tell(systemd.Extend(cfg.Drain.Timeout + cfg.Ready.Timeout + 10*time.Second)) // to wait for a port, then for workers
	var keeper sockets.Keeper
	if o.notifier.Managed() {
		keeper = o.notifier
	}
	if e.sockets, err = sockets.New(cfg.Name, o.left.Owns, own, keeper); err != nil {
		return &UsageError{err.Error()}
	}
	if len(cfg.Listeners) == 0 {
		e.implied = e.sockets.Implied()
	}
	// A number of slots that was set by hand holds over the master's death.
	if n := min(e.sockets.StoredSlots(), MaxWorkers); n > cfg.Workers && checkLimits(cfg, n, 0) == nil && checkSlots(cfg, n) == nil {
		e.slots = n
	}
	if cfg.Metrics != "" {
		if o.health, err = net.Listen("tcp", cfg.Metrics); err != nil {
			return fmt.Errorf("cannot answer /healthz on %s: %w: choose another metrics.address", cfg.Metrics, err)
		}
	}
	first := e.current(1)
	first.listeners, err = o.left.Listen(ctx, o.signals, e.sockets, e.listenersOf(cfg), e.slots, cfg.Drain.Timeout, o.log)
	if misfit, ok := errors.AsType[*sockets.MisfitError](err); ok {
		return &UsageError{misfit.Error()}
	}
	if err != nil {
		return err
	}
	if cfg.PIDFile != "" { // not before: a start that fails leaves it alone
		if o.pidFile, err = safefile.WritePIDFile(cfg.PIDFile); err != nil {
			return err
		}
	}
	e.notices()
	return nil
}

// close gives everything back. The workers are gone.
func (o *opened) close() {
	o.executor.close()
	if o.pidFile != nil {
		o.pidFile.Remove()
	}
	if o.health != nil {
		o.health.Close()
	}
	o.notifier.Close()
	if o.stdout != nil {
		o.stdout.Close()
	}
	o.stderr.Close()
	if !o.keepDir {
		o.dir.Remove()
	}
}
