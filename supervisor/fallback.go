package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/state"
)

// keptConfig is the part of a configuration that is kept with a release that served: what the
// program is, and how forkd talks to it. No value of the environment is in it.
type keptConfig struct {
	Command    []string       `json:"command"`
	StopSignal syscall.Signal `json:"stop_signal"`
	Channel    string         `json:"channel"`
	Protocols  []string       `json:"protocols"`
	Sockets    string         `json:"sockets"`
	Preset     Preset         `json:"preset"`
	Ready      Ready          `json:"ready"`
}

// keep is the release as the next master may run it.
func (r *release) keep(now time.Time) (*state.Release, error) {
	text, err := json.Marshal(plain(r.cfg))
	return &state.Release{Directory: r.directory, Executable: r.program.Path(), Configuration: text, At: now}, err
}

// configOf is a configuration with what was kept of a release in it.
func configOf(cfg Config, kept *state.Release) (Config, error) {
	var k keptConfig
	if err := json.Unmarshal(kept.Configuration, &k); err != nil {
		return cfg, fmt.Errorf("what was kept of it can't be read: %w", err)
	}
	if len(k.Command) == 0 {
		return cfg, errors.New("what was kept of it has no command")
	}
	cfg.Directory, cfg.Command = kept.Directory, k.Command
	cfg.StopSignal, cfg.Channel, cfg.Protocols = k.StopSignal, k.Channel, k.Protocols
	cfg.Sockets, cfg.Preset, cfg.Ready = k.Sockets, k.Preset, k.Ready
	return cfg, nil
}

func (r *release) is(kept *state.Release) bool {
	if kept == nil || kept.Directory != r.directory {
		return false
	}
	cfg, err := configOf(r.cfg, kept)
	cfg.Directory = r.cfg.Directory
	return err == nil && reflect.DeepEqual(plain(cfg), plain(r.cfg))
}

func plain(c Config) keptConfig {
	k := keptConfig{c.Command, c.StopSignal, c.Channel, c.Protocols, c.Sockets, c.Preset, c.Ready}
	if len(k.Protocols) == 0 {
		k.Protocols = nil
	}
	return k
}

// fallback is what the executor knows of the release that serves, and of the one that ought to.
type fallback struct {
	from     *control.Fallback // the app runs the release that served last; nil: it runs its own
	servedAt time.Time         // since when every worker of the newest generation is ready; zero: they are not
	kept     int               // the newest generation that is kept as good
	looking  bool              // directoryFound is on its way
	moved    string            // where the configured directory leads now, while the app does not serve what it did before
}

func fallsBack(cfg Config) bool {
	return cfg.Update.Fallback && cfg.Update.FailureAction != pool.Pause
}

// lastGood is the release that served last, for a start whose own has no directory or program;
// nil: there is none that can be run.
func lastGood(cfg Config) *release {
	kept := state.Kept{}
	if root := state.Root(); root != "" && fallsBack(cfg) {
		kept = state.Load(root, cfg.Name)
	}
	if kept.Good == nil {
		return nil
	}
	good, err := configOf(cfg, kept.Good)
	if err != nil {
		return nil
	}
	r, err := prepareRelease(good)
	if err != nil {
		return nil
	}
	r.instead = &cfg
	return r
}

// beginsWithLastGood notes that the app starts with the release that served last.
func (e *executor) beginsWithLastGood(r *release, why error) {
	instead := r.instead.Directory
	if directory, err := filepath.EvalSymlinks(instead); err == nil {
		instead = directory
	}
	e.fallback.from = &control.Fallback{At: e.startedAt, Directory: r.directory, Instead: instead, Error: why.Error()}
}

// hasFallback reports whether another release than the present one served last, and could be
// run. It is asked before the loop begins.
func (e *executor) hasFallback() bool {
	first, good := e.current(1), e.kept.Good
	if e.fallback.from != nil {
		e.tellFallback(1)
		return false
	}
	if !fallsBack(first.cfg) || good == nil || first.is(good) {
		return false
	}
	if first.is(e.kept.Refused) {
		e.log.Warn("this release was rolled back before", "directory", first.directory, "at", e.kept.Refused.At.Format(time.DateTime))
	}
	info, err := os.Stat(good.Directory)
	return err == nil && info.IsDir()
}

// fellBack notes that the app runs the release that served last, or can't.
func (e *executor) fellBack(a pool.FellBack) {
	from, to := e.current(a.From), e.current(a.To)
	if a.Err != "" {
		e.log.Error("no worker became ready, and the release that served last can't be run", "why", a.Why, "lost", a.Err)
		e.events.Add(control.Event{Type: control.EventRollFailed, Generation: &a.To, Reason: "no worker became ready: " + a.Why + "; the release that served last can't be run: " + a.Err})
		return
	}
	e.fallback.from = &control.Fallback{At: time.Now(), Directory: to.directory, Instead: from.directory, Error: a.Why}
	e.tellFallback(a.To)
	e.keepRefused(from)
}

// tellFallback says that the app runs the release that served last, as a generation.
func (e *executor) tellFallback(generation int) {
	f := e.fallback.from
	e.log.Error("no worker of the present release became ready: running the one that served last, until a reload succeeds",
		"directory", f.Directory, "not", f.Instead, "why", f.Error)
	e.events.Add(control.Event{Type: control.EventFellBack, Generation: &generation, Reason: fmt.Sprintf("%s runs, not %s: %s", f.Directory, f.Instead, f.Error)})
}

func (e *executor) keepRefused(r *release) {
	if kept, err := r.keep(time.Now()); err == nil {
		e.kept.Refused = kept
		e.state.Keep(e.kept)
	}
}

func (e *executor) keepGood(generation int) {
	r := e.current(generation)
	if r == nil || e.fallback.kept == generation {
		return
	}
	e.fallback.kept = generation
	kept, err := r.keep(time.Now())
	if err != nil || r.is(e.kept.Good) && e.kept.Refused == nil {
		return
	}
	if r.is(e.kept.Refused) {
		e.kept.Refused = nil
	}
	e.kept.Good = kept
	e.state.Keep(e.kept)
}

// noteServing keeps the newest release once all its workers have been ready for
// update.monitor, and looks where the configured directory leads while they are not.
func (e *executor) noteServing(now time.Time) {
	v := e.pool.Summary()
	r := e.current(v.Generation)
	if r == nil || v.Stopping || v.Roll != nil {
		e.fallback.servedAt = time.Time{}
		return
	}
	served := v.Up && v.Ready >= v.Wanted
	if !served || e.fallback.from != nil {
		e.lookAtDirectory(r)
	}
	switch {
	case !served:
		e.fallback.servedAt = time.Time{}
	case e.fallback.servedAt.IsZero():
		e.fallback.servedAt = now
	case now.Sub(e.fallback.servedAt) >= r.cfg.Update.Monitor:
		e.keepGood(v.Generation)
	}
}

// lookAtDirectory finds out, on a goroutine, where the configured directory leads.
func (e *executor) lookAtDirectory(r *release) {
	if e.fallback.looking {
		return
	}
	e.fallback.looking = true
	path := r.cfg.Directory
	if r.instead != nil {
		path = r.instead.Directory
	}
	go func() {
		directory, _ := filepath.EvalSymlinks(path) // an error: "", and it leads nowhere
		e.inbox.postReport(directoryFound{r, directory})
	}()
}

// noteDirectory says once that the configured directory leads elsewhere than when the present
// release was prepared.
func (e *executor) noteDirectory(d directoryFound) {
	e.fallback.looking = false
	was := d.release.directory
	if e.fallback.from != nil {
		was = e.fallback.from.Instead
	}
	if d.directory == "" || d.directory == was {
		e.fallback.moved = ""
		return
	}
	if d.directory != e.fallback.moved {
		e.fallback.moved = d.directory
		e.log.Warn("the directory is another one now: forkd reload takes it", "app", e.app, "was", was, "now", d.directory)
	}
}

// settled forgets what was said of the release before: a reload has succeeded.
func (f *fallback) settled() { f.from, f.moved = nil, "" }

// notice is what the service manager shows beside the state; "": nothing.
func (e *executor) notice() (text string) {
	if f := e.fallback.from; f != nil {
		text = fmt.Sprintf("RUNS THE RELEASE THAT SERVED LAST, %s, not %s: %s", f.Directory, f.Instead, f.Error)
	}
	if now := e.fallback.moved; now != "" {
		if text != "" {
			text += "; "
		}
		text += fmt.Sprintf("the directory is now %s: forkd reload %s", now, e.app)
	}
	return text
}
