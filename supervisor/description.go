package supervisor

import (
	"maps"
	"slices"
	"strconv"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
)

// description is everything about the app but its status. No value of the
// environment is in it. It runs on the loop's goroutine.
func (e *executor) description(v pool.View) control.Description {
	d := control.Description{
		History:  e.events.Exits(),
		Rolls:    e.events.Rolls(),
		Messages: control.Messages{Sent: e.sent, Dropped: e.dropped},
	}
	r := e.current(v.Generation)
	if r == nil {
		return d
	}
	d.Release = control.Release{
		Generation: v.Generation,
		Directory:  r.directory,
		Executable: r.program.Path(),
		Command:    r.cfg.Command,
	}
	d.Readiness = readiness(r.cfg, v)
	d.Env = slices.Sorted(maps.Keys(r.cfg.Env))
	for _, s := range r.cfg.Settings {
		if s.Key == "workers" && v.Wanted != r.cfg.Workers {
			s.Value, s.Source = strconv.Itoa(v.Wanted), "scaled by hand; "+s.Value+" by "+s.Source
		}
		d.Settings = append(d.Settings, control.Setting(s))
	}
	return d
}

// readiness says how a worker is found to be ready.
func readiness(cfg Config, v pool.View) string {
	notified, alive := 0, 0
	for _, s := range v.Slots {
		for _, w := range s.Workers {
			switch {
			case w.ReadyAt.IsZero():
			case w.Notified:
				notified++
			default:
				alive++
			}
		}
	}
	mode := map[pool.ReadyMode]string{
		pool.ReadyAuto:   "auto: a worker that says hello on its channel, or whose slot's last one sent READY=1, says itself when it is ready; another is when alive for " + cfg.Ready.Delay.String(),
		pool.ReadyNotify: "notify: a worker says itself when it is ready",
		pool.ReadyDelay:  "delay: a worker is ready when alive for " + cfg.Ready.Delay.String(),
	}[cfg.Ready.Mode]
	switch {
	case notified > 0 && alive == 0:
		mode += "; all that are said so"
	case alive > 0 && notified == 0:
		mode += "; all that are were by delay"
	case alive > 0:
		mode += "; some said so, some were by delay"
	}
	return mode
}
