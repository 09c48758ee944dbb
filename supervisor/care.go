package supervisor

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
)

const (
	// usageInterval is how often memory is looked at for recycle.max_rss.
	usageInterval = 5 * time.Second
	// replaceAgainAfter is how long a worker is left alone whose replacement has failed.
	replaceAgainAfter = time.Minute
	// lightFor is how long at most a worker starts at a low weight, see executor.weigh, or a
	// quarter of its ready.timeout: on a full machine nothing else of that would be left to it.
	// masterLightFor is how long a roll has the master at one: clients wait five seconds for it.
	lightFor       = 3 * time.Second
	masterLightFor = time.Second
)

// care is what decides whether a worker is replaced while it runs.
type care struct {
	spread  float64   // its own factor of recycle.max_age and max_requests: not all at once
	asked   bool      // its replacement has been asked for
	notYet  time.Time // the next request comes not before
	startAt time.Time // when its program began to run
	light   bool      // its program started at a low weight, and has it
	ready   bool
	readyAt time.Time
}

func newCare(r Recycle, now time.Time) care {
	return care{spread: 1 + r.Jitter*(2*rand.Float64()-1), startAt: now}
}

// ailing asks for the replacement of workers that are too old, have served enough, or have
// been silent for health.watchdog.
func (e *executor) ailing(now time.Time) (events []pool.Event) {
	for _, w := range e.workers {
		if cause, why := w.ails(now); w.care.ready && why != "" {
			events = append(events, e.replace(w, cause, why, now)...)
		}
	}
	return events
}

// ails says why the worker is to be replaced; "": it is not.
func (w *worker) ails(now time.Time) (cause pool.Cause, why string) {
	r, h := w.cfg.Recycle, w.cfg.Health
	if age := now.Sub(w.care.startAt); r.MaxAge > 0 && age > time.Duration(w.care.spread*float64(r.MaxAge)) {
		return pool.CauseMaxAge, fmt.Sprintf("recycle.max_age: it has run for %s", age.Round(time.Second))
	}
	if c, counts := w.link.Counters(); r.MaxRequests > 0 && counts && float64(c.Requests) > w.care.spread*float64(r.MaxRequests) {
		return pool.CauseMaxRequests, fmt.Sprintf("recycle.max_requests: it has served %d", c.Requests)
	}
	if silent := now.Sub(time.Unix(0, w.pulse.Load())); h.Watchdog > 0 && silent > h.Watchdog {
		return pool.CauseWatchdog, fmt.Sprintf("health.watchdog: no WATCHDOG=1 and no pulse for %s", silent.Round(time.Second))
	}
	return "", ""
}

// pulses notes that the worker lives. Any goroutine may call it.
func (w *worker) pulses() { w.pulse.Store(time.Now().UnixNano()) }

// becomes notes the worker's state. health.watchdog begins when it is ready.
func (w *worker) becomes(to pool.State) {
	w.begun.Store(to != pool.StateStarting)
	w.draining = to == pool.StateDraining
	w.care.ready = to == pool.StateReady
	if w.care.ready {
		w.pulses()
		w.care.readyAt = time.Now()
	}
}

// warnUncounted warns once of a recycle.max_requests that nobody counts.
func (e *executor) warnUncounted(w *worker) {
	if _, counts := w.link.Counters(); w.care.ready && !counts && w.cfg.Recycle.MaxRequests > 0 && !w.release.uncounted {
		w.release.uncounted = true
		e.log.Warn("recycle.max_requests does nothing: this program's requests are not counted, which takes Go's package: use max_age or max_rss")
	}
}

// served is the worker that is ready in a slot; nil: none is.
func (e *executor) served(slot int) *worker {
	for _, w := range e.workers {
		if w.id.Slot == slot && w.care.ready {
			return w
		}
	}
	return nil
}

// weigh gives workers their usual weight. One that is to follow another starts at a low one:
// nobody waits for it, and clients would wait for their answers while it loads. It ends when
// the worker is ready, or its predecessor is so no more, or when it takes long. For the same
// reason this process has a low weight when a roll begins, while every slot serves.
func (e *executor) weigh(now time.Time) {
	for _, w := range e.workers {
		if w.care.light && (w.care.ready || e.served(w.id.Slot) == nil || now.Sub(w.care.startAt) > min(lightFor, w.cfg.Ready.Timeout/4)) {
			w.care.light = false
			go func() { e.logError("a worker keeps a low weight", w.process.Weigh()) }()
		}
	}
	if e.weight == nil {
		return
	}
	v := e.pool.Summary()
	if light := !e.rollAt.IsZero() && now.Sub(e.rollAt) < masterLightFor && v.Ready >= v.Wanted; light != e.light {
		e.light = !e.light
		e.logError("the master keeps its weight", e.weight.Lower(e.light))
	}
}

// replace asks the pool for a worker's replacement, once, and later again if that fails.
func (e *executor) replace(w *worker, cause pool.Cause, why string, now time.Time) []pool.Event {
	if w.care.asked || now.Before(w.care.notYet) {
		return nil
	}
	w.care.asked = true
	return []pool.Event{pool.ReplaceRequested{ID: w.id, Cause: cause, Why: why, Abort: w.cfg.Health.Abort}}
}

func (e *executor) replaced(a pool.Replaced, now time.Time) {
	if w := e.workers[a.ID]; w != nil && a.Err != "" {
		w.care.asked, w.care.notYet = false, now.Add(replaceAgainAfter)
	}
}

// lookAtMemory samples on a goroutine the memory of workers that have a recycle.max_rss.
func (e *executor) lookAtMemory(now time.Time) {
	var leaders []int
	for _, w := range e.workers {
		if w.cfg.Recycle.MaxRSS > 0 && w.endedAt.IsZero() {
			leaders = append(leaders, w.process.PID())
		}
	}
	if len(leaders) == 0 || now.Sub(e.usageAt) < usageInterval {
		return
	}
	e.usageAt = now
	go func() { e.inbox.postReport(memoryFound{process.Sample(leaders)}) }()
}

func (e *executor) noteMemory(found memoryFound, now time.Time) (events []pool.Event) {
	for _, w := range e.workers {
		most := w.cfg.Recycle.MaxRSS
		if f, known := found.figures[w.process.PID()]; known && most > 0 && f.RSS > uint64(most) {
			events = append(events, e.replace(w, pool.CauseMaxRSS, fmt.Sprintf("recycle.max_rss: it has %d MiB", f.RSS>>20), now)...)
		}
	}
	return events
}
