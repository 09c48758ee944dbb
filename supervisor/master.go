package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/adopt"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/safefile"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/systemd"
)

// master is the loop with all that stands around it. It puts them together and
// takes them apart again; what happens between is the loop's.
type master struct {
	cfg      Config
	place    *control.RuntimeDir
	stderr   *output.Writer
	stdout   *output.Writer // nil: workers inherit it
	log      *slog.Logger
	children *process.Children
	loop     *loop
	host     *host
	notifier *systemd.Notifier
	left     *adopt.Leftovers  // by a master that was killed
	records  *process.Records  // of the workers; nil: none can be kept
	pidFile  *safefile.PIDFile // nil: none is wanted
	health   net.Listener      // nil: metrics.address is not set
}

func newMaster(cfg Config, place *control.RuntimeDir, out Output) *master {
	m := &master{cfg: cfg, place: place, stderr: output.New(out.Stderr)}
	m.log = newLog(m.stderr)
	if cfg.Log.Mode != "inherit" {
		m.stdout = output.New(out.Stdout)
	}
	m.loop = newLoop(pool.New(cfg.core(), cfg.Workers, cfg.Workers), m.log)
	m.loop.terminal = hasTerminal
	files := output.LogFiles(out.Stdout, out.Stderr)
	m.loop.reopen = func() { go output.Reopen(files, m.log) }
	m.notifier = systemd.NewNotifier()
	m.loop.manager = manager{tell: m.notifier.Tell, alive: m.notifier.Watchdog(), stop: m.stopTime}
	m.host = &host{
		app: cfg.Name, startedAt: time.Now(), log: m.log, tell: m.loop.tell, upkeep: upkeep{place: place}, null: -1,
		output: m.stdout, releases: map[int]*release{}, workers: map[pool.ID]*worker{},
		oom: process.NewOOMKills("/"), leftovers: map[pool.ID]*adopt.Leftover{}, leaving: map[int]int{}, others: map[uint64]string{},
		starts:  make(chan struct{}, maxStarting),
		daemons: newDaemons(),
		events:  m.loop.events, slots: cfg.Workers, serving: func() []int { return m.loop.pool.Serving() },
		preparing: func(generation int) bool { return m.loop.pool.Preparing(generation) },
	}
	m.loop.edge = m.host
	m.loop.afford = func(slots int) error {
		cfg := m.host.current(m.loop.pool.Summary().Generation).cfg
		if slots > m.host.slots { // fewer can be had always
			if err := checkLimits(cfg, slots, len(m.host.workers)); err != nil {
				return err
			}
		}
		if err := checkSlots(cfg, slots); err != nil {
			return err
		}
		return m.host.fits(slots)
	}
	return m
}

// stopTime is how long a stop may take: the host drains, the workers do, by the
// most patient of the configurations that are in use, what survives is killed.
func (m *master) stopTime() (most time.Duration) {
	for _, r := range m.host.releases {
		most = max(most, drainTime(r.cfg))
	}
	return most + 10*time.Second
}

func drainTime(cfg Config) time.Duration { return cfg.Drain.Delay + cfg.Drain.Timeout }

// open takes what the workers will be given: the sockets above all. It owns
// first from here on.
func (m *master) open(ctx context.Context, first *release) (err error) {
	m.host.releases[1] = first
	if m.host.null, err = openNull(); err != nil {
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
	m.notifier.Tell(systemd.Extend(m.cfg.Drain.Timeout + m.cfg.Ready.Timeout + 10*time.Second)) // to wait for a port, then for workers
	var keeper sockets.Keeper
	if m.notifier.Managed() {
		keeper = m.notifier
	}
	if m.host.sockets, err = sockets.New(m.cfg.Name, m.left.Owns, own, keeper); err != nil {
		return &UsageError{err.Error()}
	}
	if len(m.cfg.Listeners) == 0 {
		m.host.implied = m.host.sockets.Implied()
	}
	// A number of slots that was set by hand holds over the master's death.
	if n := min(m.host.sockets.StoredSlots(), MaxWorkers); n > m.cfg.Workers && checkLimits(m.cfg, n, 0) == nil && checkSlots(m.cfg, n) == nil {
		m.host.slots = n
		m.loop.pool = pool.New(m.cfg.core(), n, m.cfg.Workers)
	}
	if m.cfg.Metrics != "" {
		if m.health, err = net.Listen("tcp", m.cfg.Metrics); err != nil {
			return fmt.Errorf("cannot answer /healthz on %s: %w: choose another metrics.address", m.cfg.Metrics, err)
		}
	}
	lineup, err := m.left.Listen(ctx, m.loop.signals, m.host.sockets, m.host.listeners(m.cfg), m.host.slots, m.cfg.Drain.Timeout, m.log)
	if misfit, ok := errors.AsType[*sockets.MisfitError](err); ok {
		return &UsageError{misfit.Error()}
	}
	if err != nil {
		return err
	}
	first.lineup = lineup
	if m.cfg.PIDFile != "" { // not before: a start that fails leaves it alone
		if m.pidFile, err = safefile.WritePIDFile(m.cfg.PIDFile); err != nil {
			return err
		}
	}
	m.host.notices()
	return nil
}

// askStopTime finds out how long the service manager allows a stop to take.
func (m *master) askStopTime(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if allowed, err := systemd.StopTimeout(ctx); err == nil {
		m.host.stopWithin = allowed
	}
	m.host.checkStopTime(m.cfg)
}

// checkStopTime says where the service manager would end the app before its
// workers may have drained.
func (h *host) checkStopTime(cfg Config) {
	if need := drainTime(cfg); h.stopWithin > 0 && h.stopWithin < need {
		h.log.Warn("systemd allows less time to stop than workers may take to drain: it is asked for more, which it may not grant: raise TimeoutStopSec=", "TimeoutStopSec", h.stopWithin, "needed", need)
	}
}

// run is the app's life.
func (m *master) run(ctx context.Context) error {
	if _, managed := systemd.Unit(); managed {
		m.askStopTime(ctx) // before children are reaped: it has one of its own
	}
	m.children = process.New()
	m.children.Remember(m.records)
	m.host.children = m.children

	stopped := context.AfterFunc(ctx, func() {
		m.loop.tell(func() pool.Event { return pool.StopRequested{} })
	})
	defer stopped()

	// The workers are forked on this thread, for good; the loop has another.
	forking, end := context.WithCancel(context.Background())
	var quit pool.AppExited
	go func() {
		defer end()
		closeControl := m.serveControl()
		warn(m.log, m.cfg)
		m.log.Info("running", "app", m.cfg.Name, "workers", m.cfg.Workers, "listen", m.host.addresses(), "pid", os.Getpid())
		fleet := m.join()
		go m.host.watchDaemons(m.loop.glance, m.loop.step, m.loop.done)
		quit = m.loop.run(func() { go m.host.inherit(m.left, m.loop.step) })
		fleet.leave()
		if quit.Code == 0 {
			m.host.sockets.CloseListeners() // there will be no successor
		}
		closeControl()
		m.clearAway()
	}()
	m.children.Serve(forking)
	m.children.Close()
	m.log.Info("ended", "code", quit.Code, "why", quit.Why)
	switch quit.Code {
	case 0:
		return nil
	case 2:
		return &UsageError{quit.Why}
	}
	return errors.New(quit.Why)
}

// warn logs what whoever read a configuration had to say of it.
func warn(log *slog.Logger, cfg Config) {
	for _, text := range cfg.Warnings {
		log.Warn(text)
	}
}

// serveControl answers the control socket until the function that it returns is
// called.
func (m *master) serveControl() func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	b := &backend{loop: m.loop, host: m.host, tell: m.loop.tell, meter: meter{usage: process.NewUsage()}}
	go func() {
		defer close(done)
		var health sync.WaitGroup
		defer health.Wait()
		if m.health != nil {
			health.Go(func() {
				if err := control.ServeHealth(ctx, m.health, b); err != nil {
					m.log.Error("the health check has failed", "why", err)
				}
			})
		}
		if err := control.Serve(ctx, m.place, b, m.cfg.ControlGroup); err != nil {
			m.log.Error("the control socket has failed", "why", err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// farewell is how long processes that had left their worker's group have to end
// when the app has: they hold nobody's connections.
const farewell = time.Second

// clearAway ends what outlived its worker outside of its group, and fell to the
// master as subreaper.
func (m *master) clearAway() {
	patience := time.NewTimer(farewell)
	defer patience.Stop()
	again := time.NewTicker(farewell / 50)
	defer again.Stop()
	sig := m.cfg.StopSignal
	if n := m.children.KillAdopted(sig); n > 0 {
		m.log.Warn("ending what workers had left behind", "processes", n)
	}
	for len(m.children.Adopted()) > 0 {
		select {
		case <-patience.C:
			if sig == syscall.SIGKILL {
				m.log.Error("giving up on what survives SIGKILL", "pids", m.children.Adopted())
				return
			}
			sig = syscall.SIGKILL
			patience.Reset(farewell)
		case <-again.C:
		}
		if sig == syscall.SIGKILL { // and what its victims leave in turn
			m.children.KillAdopted(sig)
		}
	}
}

// close gives everything back. The workers are gone.
func (m *master) close() {
	m.host.close()
	if m.pidFile != nil {
		m.pidFile.Remove()
	}
	if m.health != nil {
		m.health.Close()
	}
	m.notifier.Close()
	if m.stdout != nil {
		m.stdout.Close()
	}
	m.stderr.Close()
}

// perWorker is how many descriptors the master holds for one worker beside the
// slot's sockets: pidfd, notify socket, channel, page, output; own is how many
// for itself.
const (
	perWorker = 5
	own       = 32
)

// checkDescriptors refuses an app that could not be rolled for want of
// descriptors: a roll needs them for up to twice the workers.
func checkDescriptors(cfg Config, slots int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("cannot read the limit on open files: %w", err)
	}
	need := uint64(slots*(len(cfg.Listeners)+2*perWorker) + own)
	if limit.Cur < need {
		return fmt.Errorf("cannot run %d workers with %d open files: raise the limit to at least %d (ulimit -n, LimitNOFILE= in a unit)", slots, limit.Cur, need)
	}
	return nil
}

// hasTerminal reports whether this process has a controlling terminal (tty(4)).
func hasTerminal() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}
