package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/config"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/doctor"
	"github.com/forkd/forkd/internal/state"
	"github.com/forkd/forkd/supervisor"
)

func startCommand(std stdio) *cobra.Command {
	var flags config.Flags
	var all, write bool
	cmd := &cobra.Command{
		Use:   "start [flags] [APP] [-- COMMAND ARGS...]",
		Short: "run an app in the background",
		Long: `start is run, in the background: it waits until the workers are ready, showing
how far they are, then prints the table. If none gets ready it prints the last
lines of one that failed, stops what it has started, and exits 1. It exits 1 too
where the release that served last runs in place of the present one. What the
app writes goes to its state directory: forkd logs.

With --write it keeps flags and command in the app's file too: /etc/forkd/APP.toml
of root, ~/.config/forkd/APP.toml of others. With --all it starts every app that
has a file there and does not run. At boot systemd does it: forkd unit.`,
		Example: `  forkd start -- node server.js
  forkd start --write shop --listen :8080 -- ./server
  forkd start shop
  forkd start --all`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && (len(args) > 0 || len(flags.Args()) > 0 || write):
				return usage("--all starts every app that has a file: it takes no other argument")
			case all:
				return startAll(cmd.Context(), std)
			case flags.FromStdin():
				return usage("start can't read the settings from standard input: put them into a file")
			}
			app, command, err := named(cmd, args)
			if err != nil {
				return err
			}
			cfg, err := config.Load(&flags, app, command)
			if err != nil {
				return err
			}
			if write {
				if len(command) == 0 {
					return usage("--write keeps a command: write forkd start --write %s -- ./server", app)
				}
				path, err := config.Write(&flags, cfg.Name, command)
				if err != nil {
					return err
				}
				fmt.Fprintf(std.out, "%s: written to %s\n", cfg.Name, path)
				return start(cmd.Context(), std, cfg, []string{cfg.Name})
			}
			words := flags.Args()
			if app != "" {
				words = append(words, app)
			}
			if len(command) > 0 {
				words = append(append(words, "--"), command...)
			}
			return start(cmd.Context(), std, cfg, words)
		},
	}
	loads(cmd, &flags)
	cmd.Flags().BoolVar(&all, "all", false, "every app that has a file and does not run")
	cmd.Flags().BoolVar(&write, "write", false, "keep the settings in the app's file too")
	return cmd
}

// startAll goes on after a failure and returns the first.
func startAll(ctx context.Context, std stdio) error {
	apps, err := config.Apps()
	if err != nil {
		return err
	}
	var first error
	started := 0
	for _, app := range apps {
		name := app.Name
		if _, err := control.FindOwn(name); !is[*control.NoAppError](err) {
			continue
		}
		started++
		cfg, err := config.Load(new(config.Flags), name, nil)
		if err == nil {
			err = start(ctx, std, cfg, []string{name})
		}
		if err != nil {
			_, text := exitCode(err)
			fmt.Fprintln(std.err, "forkd: "+sanitize(text))
			if first == nil {
				first = &exit{exitFailed, ""}
			}
		}
	}
	switch {
	case len(apps) == 0:
		fmt.Fprintln(std.out, "nothing to start: no app has a file in /etc/forkd or ~/.config/forkd: forkd start --write APP -- ./server writes one")
	case started == 0:
		fmt.Fprintln(std.out, "nothing to start: every app that has a file runs")
	}
	return first
}

// start runs a master with these words, apart from this process and its terminal, and
// waits until its workers are ready.
func start(ctx context.Context, std stdio, cfg supervisor.Config, words []string) error {
	if at, err := control.FindOwn(cfg.Name); err == nil {
		return fmt.Errorf("%s runs already: forkd reload %s reads its settings again", at.Name, at.Name)
	} else if !is[*control.NoAppError](err) {
		return err
	}
	if !cfg.Log.Captured() { // SIGPIPE would end them once this process has
		return usage("%s: log.mode is \"inherit\", and start has no output that its workers could inherit: add --log capture, or use forkd run", cfg.Name)
	}
	if cfg.Log.Directory == "" {
		root := state.Root()
		if root == "" {
			return errors.New("there is no state directory to keep the log in: set FORKD_STATE_DIR, or HOME")
		}
		if err := doctor.Writable(filepath.Join(root, cfg.Name), "FORKD_STATE_DIR"); err != nil {
			fmt.Fprintln(std.err, "forkd: warning: what happens, and the log, are not kept: "+sanitize(err.Error()))
		}
		words = append([]string{"--log-directory=" + filepath.Join(root, cfg.Name, "log")}, words...)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	m, err := launch(words)
	if err != nil {
		return err
	}
	return m.await(ctx, std, control.Location{Name: cfg.Name, Dir: control.Dir()})
}

// launched is a master in a session of its own.
type launched struct {
	cmd   *exec.Cmd
	ended chan error // its end, once
	said  tail       // the end of its stderr, not to be read before

	failed   []string  // how the last worker ended, with its last lines; nil: none has
	failedAt time.Time // when that was
}

// launch starts `forkd run`. What it writes is read while this process lives; its own log
// goes to files.
func launch(words []string) (*launched, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find forkd: %w", err)
	}
	m := &launched{cmd: exec.Command(self, append([]string{"run"}, words...)...), ended: make(chan error, 1)}
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	m.cmd.Stderr = &m.said
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot run forkd: %w", err)
	}
	go func() { m.ended <- m.cmd.Wait() }()
	return m, nil
}

// hopeless is how many ends without a worker ready, or twice the workers if that is more,
// show that a start comes to nothing.
const hopeless = 6

// await shows progress until the workers are ready. A start that comes to nothing is undone.
func (m *launched) await(ctx context.Context, std stdio, at control.Location) error {
	name, began := at.Name, time.Now()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	shown := ""
	before := 0 // the restarts of a release that another one takes the place of
	for {
		select {
		case err := <-m.ended:
			return m.gone(std, name, err)
		case <-ctx.Done():
			return m.undo(std, name, "interrupted")
		case <-poll.C:
		}
		client, app := m.ask(at)
		if client == nil {
			continue
		}
		m.noteFailure(ctx, client, &app)
		client.Close()
		t := &app.Totals
		if app.FallsBack {
			before = t.Restarts
		}
		switch text := fmt.Sprintf("%s: %d of %d ready", name, t.Ready, t.Wanted); {
		case app.State != control.StateStarting && app.AllReady():
			nowhere := ""
			if len(app.Listeners) == 0 {
				nowhere = "; it listens nowhere so far"
			}
			fmt.Fprintf(std.out, "%s: ready, after %.1fs%s\n", name, time.Since(began).Seconds(), nowhere)
			if err := printStatus(ctx, std, at.Path(), false); err != nil || app.Fallback == nil {
				return err
			}
			m.showFailure(std)
			return fmt.Errorf("%s runs the release that served last, for no worker of the present one got ready: forkd reload %s tries that again", name, name)
		case app.State == control.StateReady: // after ready.timeout, with some
			_ = printStatus(ctx, std, at.Path(), false)
			return fmt.Errorf("%s serves with %d of %d workers: forkd describe %s says why", name, t.Ready, t.Wanted, name)
		case t.Ready == 0 && t.Restarts-before >= max(hopeless-1, 2*t.Wanted) && m.failed != nil:
			return m.undo(std, name, "no worker gets ready")
		case text != shown:
			fmt.Fprintln(std.out, text)
			shown = text
		}
	}
}

// ask returns a client of this master, and its status; nil while it does not answer.
func (m *launched) ask(at control.Location) (*control.Client, control.App) {
	client, err := control.Connect(at)
	if err != nil {
		return nil, control.App{}
	}
	if app, err := client.Status(context.Background()); err == nil && app.PID == m.cmd.Process.Pid { // it has a timeout of its own
		return client, app
	}
	client.Close()
	return nil, control.App{}
}

// linesShown is how many lines of a worker that failed are shown.
const linesShown = 20

// noteFailure asks how the last worker that wrote something ended, if one has ended since.
func (m *launched) noteFailure(ctx context.Context, client *control.Client, app *control.App) {
	newer := func(s control.Slot) bool { return s.LastExit != nil && s.LastExit.At.After(m.failedAt) }
	if !slices.ContainsFunc(app.Slots, newer) {
		return
	}
	d, err := client.Describe(ctx)
	if err != nil || len(d.History) == 0 {
		return
	}
	last := d.History[len(d.History)-1]
	for _, e := range slices.Backward(d.History) { // its lines may come after its end: then it is asked again
		if len(e.Output) > 0 {
			last = e
			break
		}
	}
	m.failedAt = last.At
	m.failed = append([]string{sanitize(fmt.Sprintf("slot %d, pid %d: %s", last.Slot, last.PID, last.Reason))},
		last.Output[max(0, len(last.Output)-linesShown):]...)
}

// undo ends a master that has come to nothing.
func (m *launched) undo(std stdio, name, why string) error {
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-m.ended:
	case <-time.After(time.Second):
		_ = m.cmd.Process.Signal(syscall.SIGTERM) // once more: at once
		<-m.ended
	}
	return m.failure(std, name, why)
}

// gone is a master that has ended by itself, with what it said last.
func (m *launched) gone(std stdio, name string, ended error) error {
	lines := strings.Split(strings.TrimSpace(string(m.said.kept)), "\n")
	text, ours := strings.CutPrefix(lines[len(lines)-1], "forkd: ")
	if status, ok := errors.AsType[*exec.ExitError](ended); ours && ok && status.ExitCode() == exitUsage {
		return &exit{exitUsage, text}
	}
	switch {
	case ours:
	case ended == nil:
		text = "it was stopped"
	default:
		text = "its master has ended"
	}
	return m.failure(std, name, text)
}

// failure prints the lines of a worker, and returns the error.
func (m *launched) failure(std stdio, name, why string) error {
	m.showFailure(std)
	if !strings.HasPrefix(why, name+":") {
		why = name + " is not started: " + why
	}
	return &exit{exitFailed, why + ": forkd events " + name + " says what happened"}
}

// showFailure prints the lines of the last worker that failed.
func (m *launched) showFailure(std stdio) {
	if len(m.failed) == 0 {
		return
	}
	for _, line := range append(m.failed[:1:1], screenOf(std.err).quoted("  ", m.failed[1:])...) {
		fmt.Fprintln(std.err, line)
	}
}
