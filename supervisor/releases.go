package supervisor

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/eventlog"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/sockets"
)

// current is a generation's release; that of the newest wanted one is always there.
func (e *executor) current(generation int) *release { return e.releases[generation] }

// cpus is what "cpus" means to a generation.
func (e *executor) cpus(generation int) int { return e.current(generation).cfg.CPUs }

func (e *executor) prepare(a pool.Prepare) {
	from := e.releases[a.From]
	cfg := from.cfg
	if from.instead != nil {
		cfg = *from.instead
	}
	before, present := cfg.Workers, cfg
	var err error
	if a.Fallback {
		cfg, err = configOf(cfg, e.kept.Good)
	}
	go func() {
		if a.Reload {
			cfg, err = reread(cfg)
			warn(e.log, cfg)
		}
		var r *release
		if err == nil {
			r, err = prepareRelease(cfg)
		}
		if err == nil && a.Fallback {
			r.instead = &present
		}
		if err != nil {
			e.inbox.postFact(pool.PrepareFailed{Generation: a.Generation, Reason: control.Cut(err.Error(), eventlog.MaxReason)})
		} else if !e.inbox.postReport(prepared{a.Generation, r, before}) {
			r.close()
		}
	}()
}

// prepared opens a release's listeners. A number of slots that was scaled to holds
// unless the file's has changed.
func (e *executor) prepared(p prepared) []pool.Event {
	r := p.release
	if e.listenersClosed || !e.pool.Preparing(p.generation) {
		r.close()
		return nil // the roll has been canceled meanwhile
	}
	slots := e.slots
	if r.cfg.Workers != p.before {
		slots = r.cfg.Workers
	}
	err := checkLimits(r.cfg, max(e.slots, r.cfg.Workers), len(e.workers))
	if err == nil {
		err = checkSlots(r.cfg, slots)
	}
	if err == nil {
		err = e.sameUser(r.cfg)
	}
	if err == nil {
		if err = e.divide(r.cfg.Limits); err != nil {
			err = fmt.Errorf("%w; then stop the app and run it again", err)
		}
	}
	if err == nil {
		err = e.sockets.MarkBy(r.cfg.MarkMask)
	}
	if err == nil {
		r.listeners, err = e.sockets.Open(e.listenersOf(r.cfg), e.slots)
		e.findLearns(r)
	}
	if err != nil {
		r.close()
		return []pool.Event{pool.PrepareFailed{Generation: p.generation, Reason: control.Cut(err.Error(), eventlog.MaxReason)}}
	}
	e.releases[p.generation] = r
	e.notices()
	e.checkStopTime(r.cfg)
	return []pool.Event{pool.Prepared{Generation: p.generation, Settings: r.settings(), Slots: r.cfg.Workers}}
}

func (e *executor) checkRelease(generation int) {
	r := e.releases[generation]
	go func() { e.inbox.postFact(pool.ReleaseChecked{Generation: generation, Lost: r.lost()}) }()
}

func (e *executor) forget(generation int) {
	if r := e.releases[generation]; r != nil {
		e.closeListeners(r)
		r.close()
		delete(e.releases, generation)
	}
}

// closeListeners closes a release's sockets, but those that another has too.
func (e *executor) closeListeners(r *release) {
	if r.listeners != nil {
		e.sockets.Release(r.listeners)
		r.listeners = nil
	}
}

// rollEnded closes the listeners of generations that no longer serve, remembers a
// failed reload until the next one, and has the fleet agent follow the configuration
// that serves.
func (e *executor) rollEnded(a pool.RollEnded) {
	for generation, r := range e.releases {
		if !e.pool.Serves(generation) {
			e.closeListeners(r)
		}
	}
	switch r := e.current(a.Generation); {
	case a.Result == pool.ResultDone:
		e.unlearn(r)
		e.fallback.settled()
		e.keepGood(a.Generation)
	case r != nil && a.Result != pool.ResultCanceled:
		e.keepRefused(r)
	}
	e.learned = slices.DeleteFunc(e.learned, func(l sockets.Listener) bool {
		for _, r := range e.releases {
			if r.listeners != nil && r.listeners.HasLearned(l) {
				return false
			}
		}
		return true
	})
	if e.reloading {
		e.reloading, e.reloadFailed = false, nil
		if a.Fault == pool.FaultConfiguration {
			e.reloadFailed = &control.Failure{At: time.Now(), Error: a.Why}
		}
	}
	if r := e.current(e.pool.Summary().Generation); r != nil && e.agent != nil {
		e.agent.follow(r.cfg.Redis)
	}
}

// imply takes over the listeners of the passed sockets. Those that a killed master has
// learned are learned again, but for what mayLearn would refuse, and another user's.
func (e *executor) imply(r *release) {
	for _, l := range e.sockets.Implied() {
		l.Learned = l.Learned && r.pass == ""
		switch {
		case !l.Learned:
			e.implied = append(e.implied, l)
		case e.mayLearn(r, l.Network, l.Path) == nil && l.LearnedFrom() == r.cfg.User.uid():
			e.learned = append(e.learned, l)
		}
	}
}

// sameUser refuses another user for the workers of an app that has learned listeners: their
// sockets are its old user's, and so are the paths, which the master may touch for it alone.
// Declared ones would be the master's own, and so may its learned ones be declared.
func (e *executor) sameUser(cfg Config) error {
	uid := cfg.User.uid()
	for _, l := range e.learned {
		switch from := l.LearnedFrom(); {
		case from == uid, from == os.Geteuid() && len(cfg.Listeners) > 0:
		case from == os.Geteuid():
			return fmt.Errorf("cannot change the workers' user from uid %d to uid %d: what the app listens on, it has learned from the old user's workers: declare it too (%s), or stop the app and run it again",
				from, uid, declared(e.learned))
		default:
			return fmt.Errorf("cannot change the workers' user from uid %d to uid %d: the sockets of %s are the old user's, as the app has learned it from its workers: stop the app and run it again",
				from, uid, l.Address())
		}
	}
	return nil
}

// declared is what would declare the listeners in a configuration.
func declared(ls []sockets.Listener) string {
	var all []string
	for _, l := range ls {
		all = append(all, fmt.Sprintf("[[listen]] address = %q", l.Address()))
	}
	return strings.Join(all, ", ")
}

// findLearns finds out whether the release's workers bring listeners, and what can be seen of
// them.
func (e *executor) findLearns(r *release) {
	r.learns = len(r.cfg.Listeners)+len(e.implied) == 0 && r.pass == ""
	r.sees(len(e.listenersOf(r.cfg)) > 0)
	e.notAnswered(r, r.pass)
}

// listenersOf are those of a configuration, or, if it has none, the passed sockets.
func (e *executor) listenersOf(cfg Config) []sockets.Listener {
	if len(cfg.Listeners) == 0 {
		return slices.Concat(e.implied, e.learned)
	}
	ls := slices.Clone(cfg.Listeners)
	for i := range ls {
		giveTo(&ls[i], cfg)
	}
	return ls
}

// giveTo gives a unix socket's file to the workers, as if one of them had made it.
func giveTo(l *Listener, cfg Config) {
	if l.Network != "unix" {
		return
	}
	if cfg.User != nil {
		l.Owner = &sockets.Owner{UID: cfg.User.UID, GID: cfg.User.GID}
	}
	if cfg.Umask >= 0 && l.Perm == 0 {
		l.Perm = fs.ModePerm &^ fs.FileMode(cfg.Umask)
	}
}

// addresses is what the app listens on at the start, for the log.
func (e *executor) addresses() string {
	var all []string
	if e.current(1).seen.Learns {
		return "learned"
	}
	for _, l := range e.current(1).listeners.Listeners(0) {
		all = append(all, l.String())
	}
	return strings.Join(all, " ")
}

// afford says why a generation can't have so many slots; nil: it can.
func (e *executor) afford(generation, slots int) error {
	cfg := e.current(generation).cfg
	if slots > e.slots { // fewer can be had always
		if err := checkLimits(cfg, slots, len(e.workers)); err != nil {
			return err
		}
	}
	if err := checkSlots(cfg, slots); err != nil {
		return err
	}
	for _, r := range e.releases {
		if r.listeners != nil {
			if err := r.listeners.Fits(slots); err != nil {
				return err
			}
		}
	}
	return nil
}

// stopTime is how long a stop may take: host and workers drain, by the longest of the
// configurations in use, then what survives is killed.
func (e *executor) stopTime() (most time.Duration) {
	for _, r := range e.releases {
		most = max(most, drainTime(r.cfg))
	}
	return most + 10*time.Second
}

func drainTime(cfg Config) time.Duration { return cfg.Drain.Delay + cfg.Drain.Timeout }

// checkStopTime warns where the service manager would end the app before its
// workers may have drained.
func (e *executor) checkStopTime(cfg Config) {
	if need := drainTime(cfg); e.stopWithin > 0 && e.stopWithin < need {
		e.log.Warn("systemd allows less time to stop than workers may take to drain: it is asked for more, which it may not grant: raise TimeoutStopSec=", "TimeoutStopSec", e.stopWithin, "needed", need)
	}
}
