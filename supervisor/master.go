package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/systemd"
)

// master is the loop with all that stands around it. It puts them together and
// takes them apart again; what happens between is the loop's.
type master struct {
	cfg      Config
	place    *control.Place
	stderr   *output
	stdout   *output // nil: workers inherit it
	log      *slog.Logger
	children *process.Children
	loop     *loop
	host     *host
}

func newMaster(cfg Config, place *control.Place, out Output) *master {
	m := &master{cfg: cfg, place: place, stderr: newOutput(out.Stderr)}
	m.log = newLog(m.stderr)
	if cfg.Log.Mode != "inherit" {
		m.stdout = newOutput(out.Stdout)
	}
	m.loop = newLoop(pool.New(settings(cfg), cfg.Workers), m.log)
	m.loop.terminal = hasTerminal()
	m.host = &host{
		cfg: cfg, startedAt: time.Now(), log: m.log, tell: m.loop.tell, notifyDir: place.Dir, null: -1,
		output: m.stdout, releases: map[int]*release{}, workers: map[pool.ID]*worker{},
	}
	m.loop.edge = m.host
	return m
}

// open takes what the workers will be given: the sockets above all. It owns
// first from here on.
func (m *master) open(ctx context.Context, first *release) (err error) {
	m.host.releases[1] = first
	if m.host.null, err = openNull(); err != nil {
		return err
	}
	m.host.sockets, err = openSockets(ctx, m.cfg, m.log)
	return err
}

// run is the app's life.
func (m *master) run(ctx context.Context) error {
	m.children = process.New()
	m.host.children = m.children
	m.loop.signals = listenForSignals()
	notifier := systemd.NewNotifier()
	defer notifier.Close()
	m.loop.notify = notifier.Tell

	stopped := context.AfterFunc(ctx, func() {
		m.loop.tell(func() pool.Event { return pool.StopRequested{} })
	})
	defer stopped()

	// The workers are forked on this thread, for good; the loop has another.
	forking, end := context.WithCancel(context.Background())
	var quit pool.Quit
	go func() {
		defer end()
		closeControl := m.serveControl()
		m.log.Info("running", "app", m.cfg.Name, "workers", m.cfg.Workers, "listen", m.host.addresses(), "pid", os.Getpid())
		quit = m.loop.run()
		closeControl()
		m.clearAway()
	}()
	m.children.Serve(forking)
	m.children.Close()
	m.log.Info("ended", "code", quit.Code, "why", quit.Why)
	if quit.Code != 0 {
		return errors.New(quit.Why)
	}
	return nil
}

// serveControl answers the control socket until the function that it returns is
// called.
func (m *master) serveControl() func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := &backend{loop: m.loop, host: m.host, meter: meter{usage: process.NewUsage()}}
		if err := control.Serve(ctx, m.place, b); err != nil {
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
	if m.stdout != nil {
		m.stdout.close()
	}
	m.stderr.close()
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
func checkDescriptors(cfg Config) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("cannot read the limit on open files: %w", err)
	}
	need := uint64(cfg.Workers*(len(cfg.Listeners)+2*perWorker) + own)
	if limit.Cur < need {
		return fmt.Errorf("cannot run %d workers with %d open files: raise the limit to at least %d (ulimit -n, LimitNOFILE= in a unit)", cfg.Workers, limit.Cur, need)
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

// settings is what the pool needs of a configuration. The words have been
// checked where they were read.
func settings(cfg Config) pool.Settings {
	return pool.Settings{
		Ready: pool.Readiness{
			Mode:    map[string]pool.ReadyMode{"auto": pool.ReadyAuto, "notify": pool.ReadyNotify, "delay": pool.ReadyDelay}[cfg.Ready.Mode],
			Delay:   cfg.Ready.Delay,
			Timeout: cfg.Ready.Timeout,
		},
		Restart: pool.Restart{
			Condition:   map[string]pool.Condition{"any": pool.RestartAny, "on-failure": pool.RestartOnFailure, "none": pool.RestartNone}[cfg.Restart.Condition],
			Delay:       cfg.Restart.Delay,
			MaxDelay:    cfg.Restart.MaxDelay,
			MaxAttempts: cfg.Restart.MaxAttempts,
			Window:      cfg.Restart.Window,
		},
		Update: pool.Update{
			Parallelism:   cfg.Update.Parallelism,
			Delay:         cfg.Update.Delay,
			Order:         map[string]pool.Order{"start-first": pool.StartFirst, "stop-first": pool.StopFirst}[cfg.Update.Order],
			Monitor:       cfg.Update.Monitor,
			FailureAction: map[string]pool.FailureAction{"rollback": pool.Rollback, "pause": pool.Pause}[cfg.Update.FailureAction],
		},
		Drain: pool.Drain{Timeout: cfg.Drain.Timeout},
	}
}
