package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/forkd/forkd/internal/capture"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
)

// release is what all workers of a generation run, pinned when the generation was
// prepared: a symlink switched later, or a program renamed over, changes only the
// next one.
type release struct {
	cfg       Config
	directory string
	program   *process.Executable
	listeners *sockets.ListenerSet // nil: not opened yet, or closed
	pass      string               // why bind(2) and listen(2) of its workers are not answered; "": they are
	taken     string               // why they are not after all, as a worker's start has shown; the loop's
	blind     string               // why it can't be seen whether they wait for connections; "": it can
	learns    bool                 // its listeners are what its workers listen on
	uncounted bool                 // said: nobody counts its requests
	seen      pool.Seen
	instead   *Config // whose place it has taken, where it is the release that served last
}

// see finds out what can be seen of the release's workers on this kernel and with these
// privileges. An error: the configuration asks for more.
func (r *release) see() error {
	uid := r.cfg.User.uid()
	r.pass, r.blind = `sockets = "pass"`, process.CanSee(uid)
	if r.cfg.Sockets != SocketsPass {
		r.pass = capture.Forbidden(uid)
	}
	r.seen.Notifies = r.cfg.Preset.Notifies
	switch {
	case r.cfg.Sockets == SocketsCapture && r.pass != "":
		return &UsageError{fmt.Sprintf(`cannot run with sockets = "capture": %s`, r.pass)}
	case r.cfg.Ready.Mode == pool.ReadyListening && r.cfg.Sockets == SocketsPass:
		return &UsageError{`ready.mode = "listening" needs sockets = "auto" or "capture": with "pass" listen(2) can't be seen: use "accepting"`}
	case r.cfg.Ready.Mode == pool.ReadyListening && r.pass != "":
		return &UsageError{fmt.Sprintf(`cannot run with ready.mode = "listening", for which capture is needed: %s`, r.pass)}
	case r.cfg.Ready.Mode == pool.ReadyAccepting && r.blind != "":
		return &UsageError{fmt.Sprintf(`cannot run with ready.mode = "accepting": %s`, r.blind)}
	}
	return nil
}

// sees sets what readiness may be decided by, with or without listeners.
func (r *release) sees(listeners bool) {
	r.seen.Listeners = listeners
	r.seen.Listening, r.seen.Accepting = r.pass == "", r.blind == ""
	r.seen.Learns = !listeners && r.learns && r.cfg.Ready.Delay == pool.Defaults().Ready.Delay // one that was asked for holds
}

func (r *release) settings() pool.Settings {
	s := r.cfg.core()
	s.Seen = r.seen
	return s
}

// prepareRelease resolves the directory and opens the program. It may block.
func prepareRelease(cfg Config) (*release, error) {
	directory, err := filepath.EvalSymlinks(cfg.Directory)
	var info os.FileInfo
	if err == nil {
		info, err = os.Stat(directory)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot enter the directory: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("cannot enter the directory %s: it is not one", directory)
	}
	search, own := cfg.Env["PATH"] // that the worker will have
	if !own {
		search = os.Getenv("PATH")
	}
	path, err := process.Resolve(cfg.Command[0], directory, search)
	if err != nil {
		return nil, err
	}
	// The folder is pinned, not the program's own link: a program that looks at
	// its name (busybox, a Python environment) still sees it.
	folder, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("cannot find %s: %w", path, err)
	}
	program, err := process.OpenExecutable(filepath.Join(folder, filepath.Base(path)))
	if err != nil {
		return nil, err
	}
	r := &release{cfg: cfg, directory: directory, program: program}
	if err := r.see(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// lost says why this release can't be started again as it was; "": it can.
func (r *release) lost() string {
	_, _, err := r.program.Restore()
	if err != nil {
		return err.Error()
	}
	if _, err := os.Stat(r.directory); err != nil {
		return "its directory is gone: " + errors.Unwrap(err).Error()
	}
	return ""
}

// run returns what to execute: the program by its path, or, if another is there now,
// the one that this generation began with.
func (r *release) run() (path string, file *os.File) {
	path, file, err := r.program.Restore()
	if err != nil {
		return r.program.Path(), nil // overwritten in place: there is nothing else to run
	}
	return path, file
}

// close closes the program. Workers that drain still use the configuration.
func (r *release) close() { r.program.Close() }

// reread reads the configuration that cfg came from again. What belongs to the
// master itself can't change while it lives.
func reread(cfg Config) (Config, error) {
	if cfg.Reload == nil {
		return Config{}, errors.New("there is no configuration to read again")
	}
	now, err := cfg.Reload()
	if err != nil {
		return Config{}, err
	}
	if now.Name != cfg.Name {
		return Config{}, fmt.Errorf("the name can't change while the app runs, and is %q now: set it back, or stop %s and run it again", now.Name, cfg.Name)
	}
	for _, fixed := range []struct {
		key  string
		same bool
	}{
		{"pid_file", now.PIDFile == cfg.PIDFile},
		{"control.group", now.ControlGroup == cfg.ControlGroup},
		{"metrics.address", now.Metrics == cfg.Metrics},
		{"agent.address", now.AgentCheck == cfg.AgentCheck},
		{"log", now.Log == cfg.Log},
	} {
		if !fixed.same {
			return Config{}, fmt.Errorf("%s can't change while the app runs: set it back, or stop the app and run it again", fixed.key)
		}
	}
	return now, nil
}
