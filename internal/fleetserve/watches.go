package fleetserve

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const maxApps = 32 // that are watched

// watches are the apps that are watched: those of the configuration, or those that are
// reported.
type watches struct {
	config Config
	limits limits
	now    atomic.Pointer[appList]
}

// appList is which apps there are at a time. It does not change.
type appList struct {
	looked  bool // false before the first look
	names   []string
	watches map[string]*watch
	err     error         // of the last look
	newer   chan struct{} // closed when there is a newer list
}

// first is the list, after the first look; the empty one if ctx ends before.
func (ws *watches) first(ctx context.Context) *appList {
	return await(ctx, &ws.now, func(list *appList) (bool, <-chan struct{}) { return list.looked, list.newer })
}

// common is what frames say, while there are these apps.
func (ws *watches) common(list *appList) common {
	p := &ws.config.Policy
	return common{list.names, ws.config.Token != "", p.MaxUtilization + p.OverTolerance}
}

func (ws *watches) run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	stops := map[string]context.CancelFunc{}
	tick := time.NewTicker(ws.limits.lookup)
	defer tick.Stop()
	for said := false; ; {
		last := ws.now.Load()
		next := &appList{looked: true, names: ws.config.Apps, watches: maps.Clone(last.watches), newer: make(chan struct{})}
		if next.watches == nil {
			next.watches = map[string]*watch{}
		}
		if len(ws.config.Apps) == 0 {
			next.names, next.err = ws.reported(ctx, last.names)
			if len(last.names) == 0 && ctx.Err() == nil { // else the apps' watches say it
				ws.note(last.err, next.err)
			}
			if len(next.names) > maxApps {
				if !said {
					ws.config.Log.Warn("more apps are reported than are watched: name those to watch", "apps", len(next.names), "watched", maxApps)
				}
				said, next.names = true, next.names[:maxApps]
			}
		}
		for name, stop := range stops {
			if !slices.Contains(next.names, name) {
				stop()
				delete(stops, name)
				delete(next.watches, name)
			}
		}
		for _, name := range next.names {
			if next.watches[name] != nil {
				continue
			}
			watched, stop := context.WithCancel(ctx)
			w := &watch{watches: ws, app: name}
			w.now.Store(&state{app: name, err: errNotRead, newer: make(chan struct{})})
			stops[name], next.watches[name] = stop, w
			running.Go(func() { w.run(watched) })
		}
		next.names = slices.Sorted(slices.Values(next.names))
		ws.now.Store(next)
		close(last.newer)
		select {
		case <-tick.C:
		case <-ctx.Done():
			for _, stop := range stops {
				stop()
			}
			return
		}
	}
}

// note logs that Redis can no longer be read, or can again.
func (ws *watches) note(before, now error, of ...any) {
	switch {
	case before == nil && now != nil:
		ws.config.Log.Warn("Redis can't be read: it is tried again", append(of, "why", now)...)
	case before != nil && now == nil:
		ws.config.Log.Info("Redis can be read again", of...)
	}
}

// reported are the apps that are reported: those that are watched already first, so that
// whoever may write to Redis can't push them out by inventing others.
func (ws *watches) reported(ctx context.Context, watched []string) ([]string, error) {
	timed, cancel := context.WithTimeout(ctx, ws.limits.read)
	defer cancel()
	names, err := ws.config.Source.Apps(timed)
	if err != nil {
		return watched, err
	}
	slices.SortFunc(names, func(a, b string) int {
		if x, y := slices.Contains(watched, a), slices.Contains(watched, b); x != y {
			if x {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	return names, nil
}
