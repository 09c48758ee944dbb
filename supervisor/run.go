package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/forkd/forkd/internal/adopt"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/safefile"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/internal/state"
	"github.com/forkd/forkd/internal/workerlink"
	"github.com/forkd/forkd/systemd"
)

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
	first, why := prepareRelease(cfg)
	if why != nil {
		if first = lastGood(cfg); first == nil {
			return asUsage(why)
		}
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
	if why != nil {
		o.executor.beginsWithLastGood(first, why)
	}
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
	l := newLoop(pool.New(first.settings(), e.slots, cfg.Workers), o.log, e.startedAt, e.state)
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
		go e.watchRuntimeDir()
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

// Check says what Run would refuse before it starts anything: a program that can't be run,
// a directory, limits. It does not bind addresses or make control groups.
func Check(cfg Config) error {
	r, err := prepareRelease(cfg)
	if err != nil {
		return asUsage(err)
	}
	r.close()
	if err := checkLimits(cfg, cfg.Workers, 0); err != nil {
		return err
	}
	return checkSlots(cfg, cfg.Workers)
}

// asUsage makes a UsageError of a command or directory that is not there.
func asUsage(err error) error {
	var command *process.CommandError
	if errors.As(err, &command) || errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return &UsageError{err.Error()}
	}
	return err
}

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

// serveControl answers the control socket, the health check and agent checks until the function
// that it returns is called.
func (o *opened) serveControl(l *loop) func() {
	ctx, cancel := context.WithCancel(context.Background())
	b := &backend{loop: l, meter: meter{usage: process.Sample}, logged: o.logged}
	if !o.cfg.Log.Captured() {
		b.elsewhere = elsewhere()
	}
	var servers sync.WaitGroup
	serve := func(what string, f func() error) {
		servers.Go(func() {
			if err := f(); err != nil {
				o.log.Error(what+" has failed", "why", err)
			}
		})
	}
	if o.health != nil {
		serve("the health check", func() error { return control.ServeHealth(ctx, o.health, b) })
	}
	if o.balancer != nil {
		serve("the agent check", func() error { return control.ServeAgentCheck(ctx, o.balancer, b) })
	}
	serve("the control socket", func() error { return control.Serve(ctx, o.dir, b, o.cfg.ControlGroup) })
	return func() {
		cancel()
		servers.Wait()
	}
}

// stateTimeout is how long the last of the history may take to be written.
const stateTimeout = 2 * time.Second

// adoptedTimeout is how long processes that had left their worker's group have to end
// after the app: they hold nobody's connections.
const adoptedTimeout = time.Second

// endAdopted stops orphans outside their worker's group: by the signal, then by
// SIGKILL until none is left.
func (e *executor) endAdopted(sig syscall.Signal) {
	if n := e.children.KillAdopted(sig); n > 0 {
		e.log.Warn("ending what workers had left behind", "processes", n)
	}
	for _, sig := range []syscall.Signal{0, syscall.SIGKILL} {
		for giveUpAt := time.Now().Add(adoptedTimeout); time.Now().Before(giveUpAt); time.Sleep(adoptedTimeout / 50) {
			if len(e.children.Adopted()) == 0 {
				return
			}
			if sig != 0 {
				e.children.KillAdopted(sig)
			}
		}
	}
	e.log.Error("giving up on what survives SIGKILL", "pids", e.children.Adopted())
}

// opened is what Run opens for the loop, and closes after it.
type opened struct {
	cfg      Config
	dir      *control.RuntimeDir
	keepDir  bool           // its records name processes that live, for the next master
	stderr   *output.Writer // nil: it is the journal, which logged writes to
	logged   *output.Log
	log      *slog.Logger
	notifier *systemd.Notifier
	signals  <-chan os.Signal
	executor *executor
	left     *adopt.Leftovers
	records  *process.Records  // of the workers; nil: none can be kept
	pidFile  *safefile.PIDFile // nil: none is wanted
	health   net.Listener      // nil: metrics.address is not set
	balancer net.Listener      // nil: agent.address is not set
}

// newOpened takes dir and first over.
func newOpened(cfg Config, dir *control.RuntimeDir, first *release, out Output) *opened {
	o := &opened{cfg: cfg, dir: dir, notifier: systemd.NewNotifier()}
	o.openLog(out)
	o.executor = &executor{
		app: cfg.Name, startedAt: time.Now(), log: o.log, logged: o.logged, logFiles: output.LogFiles(out.Stdout, out.Stderr), null: -1,
		releases: map[int]*release{1: first}, workers: map[pool.ID]*worker{}, past: map[int]past{}, leftovers: map[pool.ID]*adopt.Leftover{}, heard: map[uint64]bool{},
		daemons: newDaemons(), starts: make(chan struct{}, maxStarting), oom: process.NewOOMKills("/"), runtime: runtimeDir{dir: dir, inspect: make(chan []*workerlink.Link)},
		slots: cfg.Workers, leaving: map[int]int{}, others: map[uint64]string{}, weight: process.OwnWeight(),
	}
	return o
}

func (o *opened) openLog(out Output) {
	o.logged = new(output.Log)
	var journal *output.Journal
	var err error
	if systemd.IsJournal(out.Stderr) {
		journal, err = output.NewJournal(output.JournalSocket, o.cfg.Name)
	}
	if journal != nil {
		o.logged.JournalTo(journal)
		o.log = newLog(o.logged, nil, false)
	} else {
		o.stderr = output.New(out.Stderr)
		o.log = newLog(o.logged, o.stderr, term.IsTerminal(int(out.Stderr.Fd())))
		if o.cfg.Log.Captured() {
			o.logged.ForwardTo(out.Stdout, o.cfg.Name, term.IsTerminal(int(out.Stdout.Fd())))
		}
	}
	if err != nil {
		o.log.Warn("the journal gets plain lines, without priorities", "why", err)
	}
	if l := o.cfg.Log; l.Directory != "" {
		o.logged.KeepIn(output.NewFiles(l.Directory, o.cfg.Name, l.MaxSize, l.MaxFiles, o.log))
	}
}

// elsewhere says where workers write that have the master's own outputs.
func elsewhere() string {
	var where []string
	for fd := 1; fd <= 2; fd++ {
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err == nil && !slices.Contains(where, name) {
			where = append(where, name)
		}
	}
	text := `log.mode is "inherit": the workers write to what the master was given, ` + strings.Join(where, " and ")
	if unit, managed := systemd.Unit(); managed && systemd.IsJournal(os.Stderr) {
		text += ": see journalctl -u " + unit
	}
	return text
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
	e.hear(o.left.Found())
	defer func() { o.keepDir = err != nil && o.left.Alive() }()
	o.signals = listenForSignals()
	if e.null, err = openNull(); err != nil {
		return err
	}
	if err := e.divide(cfg.Limits); err != nil {
		return &UsageError{err.Error()}
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
	if err := e.sockets.MarkBy(cfg.MarkMask); err != nil {
		return err
	}
	if cfg.AgentCheck != "" {
		if o.balancer, err = net.Listen("tcp", cfg.AgentCheck); err != nil {
			return fmt.Errorf("cannot answer agent checks on %s: %w: choose another agent.address", cfg.AgentCheck, err)
		}
	}
	first := e.current(1)
	if len(cfg.Listeners) == 0 {
		e.imply(first)
	}
	o.openState()
	if cfg.Metrics != "" {
		if o.health, err = net.Listen("tcp", cfg.Metrics); err != nil {
			return fmt.Errorf("cannot answer /healthz and /metrics on %s: %w: choose another metrics.address", cfg.Metrics, err)
		}
	}
	first.listeners, err = o.left.Listen(ctx, o.signals, e.sockets, e.listenersOf(cfg), e.slots, cfg.Drain.Timeout, o.log)
	if misfit, ok := errors.AsType[*sockets.MisfitError](err); ok {
		return &UsageError{misfit.Error()}
	}
	if err != nil {
		return err
	}
	e.findLearns(first)
	if cfg.PIDFile != "" { // not before: a start that fails leaves it alone
		if o.pidFile, err = safefile.WritePIDFile(cfg.PIDFile); err != nil {
			return err
		}
	}
	e.notices()
	return nil
}

// openState opens the state directory. A number of slots that was set by hand, when the file
// had the number that it has now, holds over the master's end; without a state over its death
// under systemd.
func (o *opened) openState() {
	cfg, e := o.cfg, o.executor
	lost := func(why error) {
		o.log.Warn("what happens is not kept for later: forkd events and describe know it while this master lives", "why", why)
	}
	restored := func() {
		o.log.Warn("somebody has removed the state directory: made again, without what happened before", "directory", e.state.Path())
	}
	kept, bad, err := state.Kept{}, error(nil), errNoState
	if root := state.Root(); root != "" {
		e.state, kept, bad, err = state.Open(root, cfg.Name, lost, restored)
	}
	if err != nil {
		lost(err)
	}
	if bad != nil {
		o.log.Warn("what the last master kept is not used", "file", e.state.Path(), "why", bad)
	}
	n := max(cfg.Workers, min(e.sockets.StoredSlots(), MaxWorkers))
	if s := kept.Scaled; s != nil && s.Of == cfg.Workers {
		n = max(1, min(s.Workers, MaxWorkers))
	}
	e.kept = kept
	e.kept.Scaled = nil
	if n != cfg.Workers && checkLimits(cfg, n, 0) == nil && checkSlots(cfg, n) == nil {
		e.slots, e.kept.Scaled = n, &state.Scaled{Workers: n, Of: cfg.Workers}
		o.log.Info("the number of workers was set by hand, and holds until the file has another", "workers", n, "file", cfg.Workers)
	}
}

var errNoState = errors.New("there is no state directory: set FORKD_STATE_DIR, or HOME")

// close gives everything back. The workers are gone.
func (o *opened) close() {
	o.executor.close()
	o.executor.state.Close(stateTimeout)
	if o.pidFile != nil {
		o.pidFile.Remove()
	}
	for _, ln := range []net.Listener{o.health, o.balancer} {
		if ln != nil {
			ln.Close()
		}
	}
	o.notifier.Close()
	o.logged.Close()
	if o.stderr != nil {
		o.stderr.Close()
	}
	if !o.keepDir {
		o.dir.Remove()
	}
}
